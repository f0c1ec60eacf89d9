"""What a method's lists look like as a whole: how much is shown, and how popular it is."""


def list_figures(
    distinct: int,
    catalogue: int,
    shown: int,
    shown_events: float,
    targets: int,
    target_events: float,
    k: int = 10,
) -> dict[str, float]:
    """Coverage and popularity bias from sums over users, however those were added up.

    Args:
        distinct: Ads that anyone was shown.
        catalogue: Ads that there are, at least 1.
        shown: Places of all lists that hold an ad.
        shown_events: Training events of these, summed over places.
        targets: Users.
        target_events: Training events of what they chose, summed.
        k: Places of a list that were looked at.

    Returns:
        `coverage@k`: share of the catalogue returned to anyone; `mean_popularity@k`: training
        events of a returned ad, on average; `popularity_bias@k`: that over the same of the
        targets, so that above 1 the lists are more popular than what users choose.

    Example:

    >>> list_figures(distinct=2, catalogue=4, shown=4, shown_events=24, targets=2, target_events=6)
    {'coverage@10': 0.5, 'mean_popularity@10': 6.0, 'popularity_bias@10': 2.0}
    """
    mean = float(shown_events) / max(shown, 1)
    # Where all targets are cold, one event among them stands in for none.
    chosen = max(float(target_events), 1.0) / max(targets, 1)
    return {
        f"coverage@{k}": distinct / catalogue,
        f"mean_popularity@{k}": mean,
        f"popularity_bias@{k}": mean / chosen,
    }
