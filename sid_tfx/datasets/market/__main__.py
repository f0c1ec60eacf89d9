"""`python -m sid_tfx.datasets.market --out DIR`: writes the simulated sample."""

import argparse

from sid_tfx.datasets import market


def main() -> None:
    """Reads the command line and writes the sample."""
    parser = argparse.ArgumentParser(description="Write the simulated ad market as Parquet.")
    parser.add_argument("--out", required=True, help="folder for ads.parquet and events.parquet")
    parser.add_argument("--seed", type=int, default=market.SEED)
    parser.add_argument("--ads", type=int, default=market.ADS, help="number of ads")
    parser.add_argument("--users", type=int, default=market.USERS, help="number of users")
    arguments = parser.parse_args()
    for path in market.write_sample(arguments.out, arguments.seed, arguments.ads, arguments.users):
        print(f"{path} (simulated)")


if __name__ == "__main__":
    main()
