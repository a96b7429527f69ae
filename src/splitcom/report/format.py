"""How numbers are written for people, in one place; knows nothing of runs."""

import math
from collections.abc import Mapping

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def format_significant(value: float, digits: int = 3) -> str:
    """Write `value` with `digits` significant digits and no exponent.

    >>> [format_significant(v) for v in (0, 0.01234, 1.5, 12.34, 99.96, 12345)]
    ['0', '0.0123', '1.50', '12.3', '100', '12345']
    """
    return f"{value:.{decimals(value, digits)}f}"


def decimals(value: float, digits: int = 3) -> int:
    """Say how many decimals show `digits` significant digits of `value`."""
    if value == 0 or not math.isfinite(value):
        return 0
    # rounding first: 9.996 is written 10.0, not 10.00
    magnitude = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    return max(0, digits - 1 - magnitude)


def format_bytes(size_bytes: float) -> str:
    """Write a size with a decimal unit (1 kB = 1000 B) and three significant digits.

    >>> [format_bytes(n) for n in (0, 999, 1000, 12_345_678, 999_999)]
    ['0 B', '999 B', '1.00 kB', '12.3 MB', '1.00 MB']
    """
    size, unit = float(size_bytes), 0
    while abs(size) >= 999.5 and unit < len(_UNITS) - 1:
        size /= 1000
        unit += 1
    number = f"{size:.0f}" if unit == 0 else format_significant(size)
    return f"{number} {_UNITS[unit]}"


def format_percent(fraction: float) -> str:
    """Write a fraction (1.0 is all) in per cent; close to 100 % with more digits, as savings need it.

    >>> [format_percent(v) for v in (0, 0.0136, 0.274, 0.9864, 0.99961, 1, 1.5)]
    ['0 %', '1.36 %', '27.4 %', '98.6 %', '99.96 %', '100 %', '150 %']
    >>> format_percent(-1e-9)  # no minus before nothing
    '0.00 %'
    """
    percent = 100 * fraction
    size = abs(percent)
    places = 0 if size == 0 or size >= 99.995 else 2 if size < 9.995 or size > 99 else 1
    return f"{percent:z.{places}f} %"


def format_seconds(seconds: float) -> str:
    """Write a duration in the two largest units that matter.

    >>> [format_seconds(v) for v in (0.34, 59.7, 245, 7384)]
    ['0.3 s', '1 min 00 s', '4 min 05 s', '2 h 03 min']
    """
    if not seconds >= 59.5:  # NaN too
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_thresholds(thresholds: Mapping[str, float]) -> str:
    """Write what controllers have set, by flow, for a line of progress; nothing if there is none.

    >>> format_thresholds({"activation_up": 0.98, "activation_down": 0.9512})
    '  θ 0.98 0.951'
    >>> format_thresholds({})
    ''
    """
    return "  θ " + " ".join(f"{value:.3g}" for value in thresholds.values()) if thresholds else ""
