"""The demand side of the simulated market: users with drifting interests, event by event.

A user looks at one ad after another. The next category comes from a drifting interest over the
tree, from the category just seen (stronger within a session) and from what complements it; the ad
within it from popularity, the user's taste (style, price level, audience) and loyalty to
advertisers. So order, content and collaboration each carry a part of the signal.
"""

import dataclasses

import numpy as np

from sid_tfx.datasets.market.ads import DAY, DAYS, Ads, Tree

CLICK, CONVERSION = 0, 1

_BLOCK = 250
_SESSION_GAP = 3_600
_MIN_EVENTS, _MAX_EVENTS = 5, 40
# Shares of (interest, same category, complementary category) in the choice of the next category.
_IN_SESSION = np.array([0.15, 0.50, 0.35])
_NEW_SESSION = np.array([0.65, 0.10, 0.25])


@dataclasses.dataclass(frozen=True)
class Log:
    """Events, user by user in time order; arrays of shape `[events]`.

    Args:
        user: Index of the user.
        ad: Index of the ad.
        time: Seconds since the start of the simulation, strictly increasing within a user.
        kind: `CLICK` or `CONVERSION`.
        oracle_rank: Rank (1 = best) of the ad in the distribution it was drawn from: what a
            recommender could reach that knew the user's mind.
    """

    user: np.ndarray
    ad: np.ndarray
    time: np.ndarray
    kind: np.ndarray
    oracle_rank: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Users:
    """Tastes of the users; arrays of shape `[users, ...]`."""

    early: np.ndarray
    late: np.ndarray
    style: np.ndarray
    tier: np.ndarray
    audience: np.ndarray
    events: np.ndarray
    times: np.ndarray
    draws: np.ndarray

    def block(self, start: int) -> "_Users":
        values = (getattr(self, f.name) for f in dataclasses.fields(self))
        return _Users(*(value[start : start + _BLOCK] for value in values))


def simulate(tree: Tree, ads: Ads, users: int, rng: np.random.Generator) -> Log:
    """Simulates the users' events."""
    population = _make_users(tree, int(ads.style.max()) + 1, users, rng)
    logs = [
        _simulate_block(tree, ads, population.block(start), start)
        for start in range(0, users, _BLOCK)
    ]
    return Log(*(np.concatenate(parts) for parts in zip(*logs, strict=True)))


def _make_users(tree: Tree, styles: int, count: int, rng: np.random.Generator) -> _Users:
    events = np.minimum(_MIN_EVENTS + rng.geometric(1 / 8, size=count) - 1, _MAX_EVENTS)
    return _Users(
        early=_interests(tree, count, rng),
        late=_interests(tree, count, rng),
        style=rng.dirichlet(np.full(styles, 0.3), size=count),
        tier=rng.beta(1.2, 1.2, size=count),
        audience=rng.integers(2, size=count),
        events=events,
        times=_times(count, rng),
        draws=rng.random((count, _MAX_EVENTS, 2)),
    )


def _interests(tree: Tree, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws an interest in every leaf: peaked at each level of the tree, rows sum to 1."""
    root = rng.gamma(0.25, size=(count, tree.root.max() + 1))[:, tree.root]
    middle = rng.gamma(0.5, size=(count, tree.middle.max() + 1))[:, tree.middle]
    leaf = rng.gamma(0.8, size=(count, len(tree.paths)))
    interest = root * middle * leaf + 1e-12
    return interest / interest.sum(axis=1, keepdims=True)


def _times(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws event times in seconds, `[users, _MAX_EVENTS]`: sessions of minutes, days apart."""
    shape = (count, _MAX_EVENTS - 1)
    gaps = np.where(
        rng.random(shape) < 0.6,
        10 + rng.exponential(600, shape).clip(max=_SESSION_GAP - 20),
        2 * _SESSION_GAP + rng.exponential(2.5 * DAY, shape),
    )
    first = rng.uniform(0, 0.7 * DAYS * DAY, size=(count, 1))
    return np.rint(first + np.pad(np.cumsum(gaps, axis=1), ((0, 0), (1, 0)))).astype(np.int64)


def _simulate_block(tree: Tree, ads: Ads, users: _Users, first_user: int) -> tuple[np.ndarray, ...]:
    # A user's log ends when the simulated days do.
    running = np.arange(_MAX_EVENTS) < users.events[:, None]
    running &= (users.times < DAYS * DAY) | (np.arange(_MAX_EVENTS) < _MIN_EVENTS)
    taste = ads.popularity * np.exp(
        3.0 * users.style[:, ads.style]
        - 3.0 * np.abs(users.tier[:, None] - ads.tier)
        - 3.0 * ((ads.audience >= 0) & (ads.audience != users.audience[:, None]))
    )
    rows = np.arange(len(taste))
    loyalty = np.zeros((len(taste), int(ads.advertiser.max()) + 1))
    last = np.zeros(len(taste), np.int64)
    boundaries = np.searchsorted(ads.leaf, np.arange(len(tree.paths)))
    stocked = np.bincount(ads.leaf, minlength=len(tree.paths)) > 0
    chosen, kinds, ranks = [], [], []
    for step in range(int(running.sum(axis=1).max())):
        category = _next_category(tree, ads, users, last, step)
        weight = taste * np.exp(loyalty)[:, ads.advertiser]
        if step:
            # People compare like with like: one espresso machine after the other.
            weight *= 1.0 + 2.0 * (ads.product == ads.product[last][:, None])
        weight *= ads.start <= users.times[:, step, None]
        total = np.add.reduceat(weight, np.minimum(boundaries, len(ads.leaf) - 1), axis=1)
        total = np.where(stocked & (total > 0), total, np.inf)
        probability = weight * (category / total)[:, ads.leaf]
        cumulative = np.cumsum(probability, axis=1)
        threshold = users.draws[:, step, :1] * cumulative[:, -1:]
        ad = np.argmax(cumulative > threshold, axis=1)

        picked = probability[rows, ad]
        ranks.append(1 + (probability > picked[:, None]).sum(axis=1))
        # Whoever gets what fits converts: the ad's taste against the best of its category.
        fit = taste[rows, ad] / (ads.popularity[ad] * np.exp(3.0))
        kinds.append(np.where(users.draws[:, step, 1] < 0.05 + 0.25 * fit, CONVERSION, CLICK))
        chosen.append(ad)
        loyalty *= 0.8
        loyalty[rows, ads.advertiser[ad]] += 1.2
        # Nobody clicks an ad twice.
        taste[rows, ad] = 0.0
        last = ad

    steps = len(chosen)
    user, step_of = np.nonzero(running[:, :steps])
    by_step = (np.stack(values, axis=1)[user, step_of] for values in (chosen, kinds, ranks))
    ad, kind, rank = by_step
    return first_user + user, ad, users.times[user, step_of], kind, rank


def _next_category(tree: Tree, ads: Ads, users: _Users, last: np.ndarray, step: int) -> np.ndarray:
    """Returns the probability of each leaf, `[users, leaves]`."""
    drift = np.minimum(step / users.events, 1.0)[:, None]
    interest = (1 - drift) * users.early + drift * users.late
    if step == 0:
        return interest
    leaf = ads.leaf[last]
    gap = users.times[:, step] - users.times[:, step - 1]
    shares = np.where((gap < _SESSION_GAP)[:, None], _IN_SESSION, _NEW_SESSION)
    category = shares[:, :1] * interest + shares[:, 2:] * tree.complements[leaf]
    category[np.arange(len(leaf)), leaf] += shares[:, 1]
    return category
