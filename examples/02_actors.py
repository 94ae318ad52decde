"""Actors: objects with a process of their own, called like objects, found by name.

A bank keeps accounts in one actor; clerks (tasks) move money at the same time. Calls to one actor
run one after the other, so a transfer is never seen half done, and the total stays what it was.
"""

from __future__ import annotations

import random

import engine

CLERKS = 4
TRANSFERS = 500


@engine.remote
class Bank:
    """Accounts by number."""

    def __init__(self, accounts: int, balance: int) -> None:
        self.balances = [balance] * accounts

    def transfer(self, source: int, target: int, amount: int) -> bool:
        """Move an amount if it is there."""
        if self.balances[source] < amount:
            return False
        self.balances[source] -= amount
        self.balances[target] += amount
        return True

    def total(self) -> int:
        """All the money."""
        return sum(self.balances)


@engine.remote
def clerk(seed: int) -> int:
    """Finds the bank by its name; returns how many transfers went through."""
    bank, dice = engine.get_actor("bank"), random.Random(seed)
    moves = [(dice.randrange(10), dice.randrange(10), dice.randrange(80)) for _ in range(TRANSFERS)]
    return sum(engine.get([bank.transfer.remote(*move) for move in moves]))


def main() -> None:
    """Let all clerks work at once, then count the money."""
    with engine.init():
        bank = Bank.options(name="bank", num_cpus=0).remote(accounts=10, balance=100)
        before = engine.get(bank.total.remote())
        done = engine.get([clerk.remote(seed) for seed in range(CLERKS)])
        after = engine.get(bank.total.remote())
        print(f"{sum(done)} of {CLERKS * TRANSFERS} transfers; total {before} -> {after}")


if __name__ == "__main__":
    main()
