"""Where the bytes of a finished run went: of each flow, at the cut, and of evaluation.

python benchmarks/traffic.py runs/e2e
"""

import argparse

from splitcom.flows import AT_CUT, FLOWS
from splitcom.report.folder import load_run
from splitcom.report.format import format_bytes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a run folder")
    result = load_run(parser.parse_args().run).result
    sent, whole = result.bytes, result.uncompressed_bytes
    print("| flow | sent | with fp16 flows | part, % |\n| --- | ---: | ---: | ---: |")
    for flow in (*FLOWS, "total"):
        if whole.get(flow) or sent.get(flow):
            print(
                f"| {flow} | {format_bytes(sent[flow])} | {format_bytes(whole[flow])} "
                f"| {100 * sent[flow] / max(whole[flow], 1):.2f} |"
            )
    cut, fp16 = (sum(sizes.get(flow, 0) for flow in AT_CUT) for sizes in (sent, whole))
    training = sent["total"] - sent["evaluation"]
    loss = f"{result.eval.loss:.4f} ({'exact' if result.eval.exact else 'of coded samples'})"
    share = 100 * sent["evaluation"] / max(training, 1)
    print(
        f"\nat the cut {100 * cut / max(fp16, 1):.2f} % of fp16; evaluation {share:.1f} % of what training sent"
    )
    print(f"held-out loss {loss}")


if __name__ == "__main__":
    main()
