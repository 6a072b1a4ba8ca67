"""Any text as LaTeX that every engine compiles: cells, column heads and captions alike."""

import re
import unicodedata

import pandas as pd

_SIGNS = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    # Behind the end of a row these would be its arguments.
    **{"[": "{[}", "]": "{]}", "*": "{*}"},
    **{"−": "$-$", "±": r"$\pm$", "×": r"$\times$", "÷": r"$\div$", "·": r"$\cdot$"},
    **{"≤": r"$\leq$", "≥": r"$\geq$", "≠": r"$\neq$", "≈": r"$\approx$", "∞": r"$\infty$"},
    **{"←": r"$\leftarrow$", "→": r"$\rightarrow$", "√": r"$\surd$", "°": r"$^\circ$"},
    **{"²": "$^2$", "³": "$^3$", "½": "$1/2$", "¼": "$1/4$", "¾": "$3/4$"},
    **{"–": "--", "—": "---", "…": r"\dots{}", "\u00a0": "~", "•": r"$\bullet$"},
    **{"‘": "`", "’": "'", "“": "``", "”": "''"},
    **{"ß": r"\ss{}", "æ": r"\ae{}", "œ": r"\oe{}", "ø": r"\o{}", "ł": r"\l{}", "ı": r"\i{}"},
    **{"Æ": r"\AE{}", "Œ": r"\OE{}", "Ø": r"\O{}", "Ł": r"\L{}"},
    **{"£": r"\pounds{}", "§": r"\S{}", "¶": r"\P{}", "©": r"\copyright{}"},
}
_GREEK = {
    **{"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta"},
    **{"η": "eta", "θ": "theta", "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu"},
    **{"µ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma", "ς": "varsigma"},
    **{"τ": "tau", "υ": "upsilon", "φ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega"},
    **{"Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi"},
    **{"Σ": "Sigma", "Υ": "Upsilon", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega"},
}
_SIGNS |= {letter: f"$\\{name}$" for letter, name in _GREEK.items()}
_ACCENTS = {
    **{"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u"},
    **{"\u0307": ".", "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v"},
    **{"\u0323": "d", "\u0327": "c"},
}
_LIGATURES = re.compile(r"-(?=-)|`(?=`)|'(?=')|,(?=,)|[?!](?=`)")


def escape(text: str) -> str:
    """Return a text as LaTeX prints it, on one line.

    Signs with a meaning in LaTeX are escaped; Greek letters, signs of mathematics, accents and
    typographic signs become commands that need no package. What pdfLaTeX's own fonts lack (Chinese,
    an emoji) becomes `[3 characters]`: the same table's CSV and Markdown hold it.
    """
    line = " ".join(unicodedata.normalize("NFC", text).split())
    line = _LIGATURES.sub(lambda found: f"{found[0]}\u2060", line)
    found, lost = [], 0
    for sign in line:
        printed = _sign(sign)
        if printed is None:
            lost += 1
            continue
        found += [_lost(lost), printed]
        lost = 0
    return "".join([*found, _lost(lost)])


def table(frame: pd.DataFrame, *, caption: str, label: str, labels: int) -> str:
    """Return a table of texts in booktabs' form, its first `labels` columns left-aligned."""
    columns = "l" * labels + "r" * (frame.shape[1] - labels)
    return (
        frame.map(escape)
        .rename(columns=escape)
        .to_latex(
            index=False, escape=False, caption=escape(caption), label=label, column_format=columns
        )
    )


def _sign(sign: str) -> str | None:
    """Return one character as LaTeX, or None where its fonts have none."""
    if sign in _SIGNS:
        return _SIGNS[sign]
    if sign == "\u2060":
        return "{}"
    if sign.isascii():
        return sign if sign.isprintable() else None
    plain, *marks = unicodedata.normalize("NFD", sign)
    if len(marks) != 1 or marks[0] not in _ACCENTS or not plain.isascii():
        return None
    # An accent replaces the dot of an i or j.
    base = f"\\{plain}" if plain in "ij" and marks[0] < "\u0323" else plain
    return f"\\{_ACCENTS[marks[0]]}{{{base}}}"


def _lost(count: int) -> str:
    if not count:
        return ""
    return "{[}1 character{]}" if count == 1 else f"{{[}}{count} characters{{]}}"
