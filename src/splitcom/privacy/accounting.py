"""What noise is worth: epsilon of so many releases, by Google's `dp-accounting` (extra `privacy`)."""

from typing import Any

from splitcom.errors import MissingExtraError


def check_accountant() -> None:
    """Raise MissingExtraError if the accountant is not installed."""
    _accountant()


def epsilon(multiplier: float, releases: int, delta: float) -> float:
    """An upper bound of epsilon at `delta`, of `releases` of the Gaussian mechanism that compose (Rényi accountant).

    `multiplier` is the noise's standard deviation over the sensitivity. Nothing is gained by sampling: whoever knows
    the run's seed knows which samples and clients are drawn.
    """
    if not releases:
        return 0.0
    dp_accounting, rdp = _accountant()
    event = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(multiplier), releases)
    return float(rdp.RdpAccountant().compose(event).get_epsilon(delta))


def _accountant() -> tuple[Any, Any]:
    try:
        import dp_accounting
        from dp_accounting import rdp
    except ImportError as error:
        raise MissingExtraError("accounting of privacy", "privacy", error) from error
    return dp_accounting, rdp
