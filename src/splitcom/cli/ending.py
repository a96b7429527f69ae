"""What `train` and `serve` show of a run that has ended; none of it can fail the command."""

from splitcom.amount import counted
from splitcom.cli.samples import print_samples
from splitcom.methods.ending import Ending
from splitcom.methods.run import Run
from splitcom.methods.settings import settings_of
from splitcom.metrics.record import RunFolder
from splitcom.report import closing_table, write_report
from splitcom.report.folder import as_result
from splitcom.report.terminal import Terminal


def show_end(terminal: Terminal, run: Run) -> None:
    """Write the report and print the closing table, sample text, warnings, and where everything is."""
    ending = Ending(RunFolder(run.folder), run.result)
    places = {"adapter": run.adapter}

    def report() -> dict[str, object]:
        places["report"] = write_report(run.folder)
        return {}

    def show() -> dict[str, object]:
        terminal.print(closing_table([run.result]))
        loss, initial, fell_by = (run.result["eval"][key] for key in ("loss", "initial_loss", "fell_by"))
        over = counted(run.result["eval"]["rows"], "row")
        if fell_by is None:
            terminal.say(f"held-out loss {initial:.4f} → {loss:.4f} nats (over other rows than these {over})")
        else:
            exact = "" if initial - fell_by == loss else f"; measured exactly, {loss:.4f}"
            change = f"{initial:.4f} → {initial - fell_by:.4f} nats ({-fell_by:+.4f}){exact}"
            terminal.say(f"held-out loss {change}, over {over}")
        config = settings_of(RunFolder(run.folder), needs=())
        if config.method == "splitcom" and not config.lora.front_learns:
            terminal.say(
                "fronts have not learnt, so no gradient came back (lora.train_front = true trains them)"
            )
        if rest := config.resting_rounds:
            rounds = "the first round" if rest == 1 else f"the first {rest} rounds"
            controller = config.steering["activation_up"][1]
            terminal.say(
                f"in {rounds} fronts did not learn (controller of flows.activation_up: {controller})"
            )
        if ending_of_run := as_result(run.result).ending:
            terminal.say(ending_of_run)
        print_samples(terminal, run.result.get("samples", []))
        return {}

    ending.attempt("report", report)
    ending.attempt("summary", show)
    for warning in ending.result["warnings"]:
        Terminal(stderr=True).say(f"warning: {warning}", "yellow")
    for name, place in places.items():
        if place.exists():
            terminal.say(f"{name:8s} {place}")
