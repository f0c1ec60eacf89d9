"""The one way a stage says no."""


class Refused(Exception):
    """A stage will not go on.

    The message is one sentence for the person at the terminal: what was measured, the limit it
    broke, and the cure. The command line prints it as it is and exits non-zero.
    """
