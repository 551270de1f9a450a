"""Patroni replaces a primary by itself, and clients go on without a hand."""

import time

import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from tests.conftest import ROOT_KEY
from tests.patroni import PatroniCluster
from tests.test_failover import killed_under_load


@pytest.mark.slow
def test_a_leader_of_patroni_that_dies_takes_nothing_that_was_acknowledged():
    with (
        PatroniCluster() as cluster,
        IsolatedMemory(cluster.url(), root_key=LocalRootKey(ROOT_KEY), timeout=60) as memory,
    ):
        former = cluster.primary()
        assert former is not None

        def replace() -> None:
            former.kill()
            end = time.monotonic() + 60
            while cluster.primary() in (None, former):
                assert time.monotonic() < end
                time.sleep(0.2)

        killed_under_load(memory, replace)
