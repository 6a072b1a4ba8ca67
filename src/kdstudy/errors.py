"""One family of user errors: what was set, why it cannot work, what to do instead."""


class KdstudyError(Exception):
    """Base of every error a user can meet; printed without a traceback.

    Args:
        what: What is wrong, naming the file, field or line.
        why: Why it cannot work.
        remedy: What to do instead.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", remedy: str = ""):
        super().__init__(what)
        self.what, self.why, self.remedy = what, why, remedy

    def __str__(self) -> str:
        parts = [self.what]
        if self.why:
            parts.append(f"  why: {self.why}")
        if self.remedy:
            parts.append(f"  do:  {self.remedy}")
        return "\n".join(parts)


class InputError(KdstudyError, ValueError):
    """The input is wrong: a study, a file, a row, an argument (exit code 2)."""

    exit_code = 2


class StageError(KdstudyError, RuntimeError):
    """Something failed while running (exit code 1)."""


def first_line(error: BaseException) -> str:
    """Return the first line that an error of a library says, or else its type.

    Where that only announces what follows (it ends in a colon), the next line is returned with it.
    """
    lines = [*filter(None, map(str.strip, str(error).splitlines())), ""]
    first = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return first.strip()[:300] or type(error).__name__
