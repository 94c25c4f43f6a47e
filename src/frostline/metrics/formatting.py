"""Numbers as people read them."""


def decimals(*values: float) -> int:
    """How many decimals, 3 to 6, `values` need so that none but 0 itself reads as 0."""
    return next((d for d in (3, 4, 5) if all(v == 0 or abs(round(v, d)) > 0 for v in values)), 6)


def signed(value: float, digits: int) -> str:
    """Return `value` with its sign, which is a true minus where negative and absent where it reads as 0."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def p_text(p_value: float) -> str:
    """A p value as a clause: ``p = 0.06``, ``p < 0.001``."""
    if p_value < 0.001:
        return "p < 0.001"
    return f"p = {p_value:.3f}" if p_value < 0.01 else f"p = {p_value:.2f}"


def rounded(value: float) -> float:
    """`value` with six significant digits, as metrics.json and figures.json have it."""
    return float(f"{value:.6g}") + 0.0  # + 0.0: no negative zero


def six_digits(threshold: float) -> str:
    """`threshold`, from 0 to 1, with six significant digits; with all of them where six would make 1 of it."""
    short = f"{threshold:.6g}"
    return short if float(short) < 1 else str(threshold)
