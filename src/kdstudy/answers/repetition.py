"""How much a text repeats itself."""


def repetition(text: str) -> float:
    """Return seq-rep-4, the share of a text's word 4-grams that it holds before.

    After Welleck et al. (2020, "Neural text generation with unlikelihood training"), with words in
    place of tokens; a text of fewer than four words repeats none.
    """
    words = text.split()
    total = len(words) - 3
    if total < 1:
        return 0.0
    return 1 - len(set(zip(words, words[1:], words[2:], words[3:], strict=False))) / total
