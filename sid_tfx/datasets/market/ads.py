"""The supply side of the simulated market: category tree, advertisers and their ads."""

import dataclasses
import re

import numpy as np
import pandas as pd

from sid_tfx.datasets.market import words

DAY = 86_400
DAYS = 60

_HEADER = re.compile(r"# (?P<root>.+) > (?P<middle>.+) = (?P<price>\d+) = (?P<next>.+)")
_STYLES = tuple(words.STYLES)
_ADS_PER_ADVERTISER = 8
_PRODUCTS = 3


@dataclasses.dataclass(frozen=True)
class Tree:
    """The category tree, one entry a leaf.

    Args:
        paths: Root, middle and leaf name.
        products: Product names.
        features: Selling points.
        price: Usual price in dollars.
        root: Index of the root, int `[leaves]`.
        middle: Index of the middle category, int `[leaves]`.
        complements: `[leaves, leaves]`: share of each leaf among what people look at after the
            row's leaf; rows sum to 1.
    """

    paths: list[tuple[str, str, str]]
    products: list[list[str]]
    features: list[list[str]]
    price: np.ndarray
    root: np.ndarray
    middle: np.ndarray
    complements: np.ndarray


@dataclasses.dataclass(frozen=True)
class Ads:
    """What decides who clicks an ad; arrays of shape `[ads]`, sorted by leaf.

    Args:
        leaf: Index into the tree.
        product: Index of the product, distinct over all leaves.
        advertiser: Index of the advertiser.
        style: Index of the style.
        tier: 0 (cheap) to 1 (expensive).
        audience: 0 or 1; -1 for everyone.
        popularity: Relative attention, Zipf.
        start: Second of the simulation at which the ad starts to run.
        table: The ads as data: the canonical raw columns.
    """

    leaf: np.ndarray
    product: np.ndarray
    advertiser: np.ndarray
    style: np.ndarray
    tier: np.ndarray
    audience: np.ndarray
    popularity: np.ndarray
    start: np.ndarray
    table: pd.DataFrame


def read_tree(rng: np.random.Generator) -> Tree:
    """Reads the category tree; `rng` draws which leaves complement one another."""
    paths, products, features, prices, following = [], [], [], [], []
    for line in words.TREE.strip().splitlines():
        header = _HEADER.fullmatch(line)
        if header:
            root, middle, price, following_middles = header.groups()
            continue
        leaf, nouns, points = re.split("[:;] ", line)
        paths.append((root, middle, leaf))
        products.append(nouns.split(", "))
        features.append(points.split(", "))
        prices.append(float(price))
        following.append(following_middles.split(", "))

    leaves_of: dict[str, list[int]] = {}
    for index, (_, name, _) in enumerate(paths):
        leaves_of.setdefault(name, []).append(index)
    complements = np.zeros((len(paths), len(paths)))
    for index, middles in enumerate(following):
        siblings = [leaf for leaf in leaves_of[paths[index][1]] if leaf != index]
        nexts = [int(rng.choice(leaves_of[name])) for name in middles]
        complements[index, [*nexts, int(rng.choice(siblings))]] += 1.0 / (len(nexts) + 1)

    roots = list(dict.fromkeys(path[0] for path in paths))
    middles = list(leaves_of)
    return Tree(
        paths=paths,
        products=products,
        features=features,
        price=np.array(prices),
        root=np.array([roots.index(path[0]) for path in paths]),
        middle=np.array([middles.index(path[1]) for path in paths]),
        complements=complements,
    )


def make_ads(tree: Tree, count: int, rng: np.random.Generator) -> Ads:
    """Makes the advertisers and their ads.

    An advertiser sells in one or two leaves of one middle category, in mostly one style and at
    one price level, so that advertiser, words and price all tell something about an ad.
    """
    advertisers = max(4, count // _ADS_PER_ADVERTISER)
    # Every middle category gets advertisers before any gets a second one.
    home = np.resize(rng.permutation(tree.middle.max() + 1), advertisers)
    usual_style = rng.integers(len(_STYLES), size=advertisers)
    usual_tier = rng.beta(1.2, 1.2, size=advertisers)
    leaves = [rng.permutation(np.flatnonzero(tree.middle == m))[:2] for m in home]
    size = rng.gamma(1.5, size=advertisers)

    advertiser = rng.choice(advertisers, size=count, p=size / size.sum())
    leaf = np.array([rng.choice(leaves[a]) for a in advertiser])
    order = np.argsort(leaf, kind="stable")
    advertiser, leaf = advertiser[order], leaf[order]

    own_style = rng.random(count) < 0.6
    style = np.where(own_style, usual_style[advertiser], rng.integers(len(_STYLES), size=count))
    tier = np.clip(usual_tier[advertiser] + rng.normal(0, 0.15, count), 0, 1)
    product = rng.integers(_PRODUCTS, size=count)
    has_audience = np.array([tree.paths[i][0] in words.AUDIENCES for i in leaf])
    audience = np.where(has_audience, rng.integers(2, size=count), -1)
    popularity = (1.0 + rng.permutation(count)) ** -0.7
    # The tail of new ads is what a tokenizer must place by content alone.
    late = rng.random(count) < 0.15
    start = np.where(late, rng.uniform(10, DAYS - 2, count), 0) * DAY

    table = _table(tree, leaf, product, advertiser, style, tier, audience, rng)
    product = leaf * _PRODUCTS + product
    return Ads(leaf, product, advertiser, style, tier, audience, popularity, start, table)


def _table(
    tree: Tree,
    leaf: np.ndarray,
    product: np.ndarray,
    advertiser: np.ndarray,
    style: np.ndarray,
    tier: np.ndarray,
    audience: np.ndarray,
    rng: np.random.Generator,
) -> pd.DataFrame:
    count = len(leaf)
    names = _advertiser_names(int(advertiser.max()) + 1, rng)
    price = tree.price[leaf] * np.exp(1.8 * (tier - 0.5) + rng.normal(0, 0.2, count))
    price = np.maximum(np.round(price), 2) - np.where(rng.random(count) < 0.7, 0.01, 0.0)
    missing = {
        "description": rng.random(count) < 0.05,
        "advertiser": rng.random(count) < 0.02,
        "price": rng.random(count) < 0.10,
        "summary": rng.random(count) < 0.20,
    }
    rows = []
    for i in range(count):
        root, middle, name = tree.paths[leaf[i]]
        path = [root, middle, name]
        if audience[i] >= 0:
            path.append(words.AUDIENCES[root][audience[i]])
        noun = tree.products[leaf[i]][product[i]]
        features = tree.features[leaf[i]]
        copy = _copy(noun, features, names[advertiser[i]], _STYLES[style[i]], path, rng)
        rows.append({**copy, "advertiser": names[advertiser[i]], "category_path": path})
    table = pd.DataFrame(rows)
    table["price"] = price
    # Ids in random order: they must not give away the leaf that the rows are sorted by.
    table.insert(0, "ad_id", [f"ad_{n:05d}" for n in rng.permutation(count)])
    for column, gone in missing.items():
        table[column] = table[column].where(~gone)
    return table


def _copy(
    noun: str,
    features: list[str],
    advertiser: str,
    style: str,
    path: list[str],
    rng: np.random.Generator,
) -> dict[str, str]:
    """Writes title, description and summary of one ad."""
    adjectives, closing = words.STYLES[style]
    feature, other = map(str, rng.permutation(features)[:2])
    adjective, second = map(str, rng.permutation(adjectives.split())[:2])
    promotion = str(rng.choice(words.PROMOTIONS))
    slots = {
        "noun": noun,
        "Noun": _capital(noun),
        "adjective": adjective,
        "Adjective": _capital(adjective),
        "feature": feature,
        "other": other,
        "promotion": promotion,
        "Promotion": _capital(promotion),
        "Advertiser": advertiser,
    }
    audience = path[3].lower() if len(path) > 3 else "everyone"
    opening = str(rng.choice(words.OPENINGS)).format(**slots)
    description = (
        f"{opening} {advertiser} {noun}, {second} and {adjective}. "
        f"Highlights: {feature}, {other}. For {audience}. {closing} "
        f"{_capital(promotion)}. {rng.choice(words.CALLS)}"
    )
    return {
        "title": _capital(str(rng.choice(words.TITLES)).format(**slots)),
        "description": description,
        "summary": f"{_capital(adjective)} {noun} in {path[1].lower()} for {audience}, {feature}",
    }


def _advertiser_names(count: int, rng: np.random.Generator) -> list[str]:
    stems = [start + end for start in words.NAME_STARTS for end in words.NAME_ENDS]
    if count > len(stems):
        raise ValueError(
            f"A market has at most {len(stems) * 12} ads, {count * 12} were asked for."
        )
    picked = rng.permutation(stems)[:count]
    return [f"{stem} {rng.choice(words.NAME_KINDS)}".strip() for stem in picked]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
