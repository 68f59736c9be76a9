"""A Ray that is not there is said within seconds."""

from __future__ import annotations

import socket

import pytest

from actors.cluster import cluster_for
from gps_ray.base.errors import ResourceError
from gps_ray.config import TrainConfig, load_config

pytestmark = pytest.mark.loop


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense", "expected host:port, ray://host:port or auto, got 'nonsense'"),
        ("127.0.0.1:http", "expected host:port"),
        ("127.0.0.1:99999", "nobody answers at 127.0.0.1:99999"),
        ("no.such.host.invalid:6379", "nobody answers at no.such.host.invalid:6379"),
        ("{closed}", "nobody answers at {closed}"),
        ("ray://{closed}", "nobody answers at ray://{closed}"),
    ],
)
def test_an_address_where_nobody_answers(address: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:  # bound and not listening: nobody else gets the port
        bound.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{bound.getsockname()[1]}"
        address, said = address.format(closed=closed), said.format(closed=closed)
        for config, environment in ((f"cluster.address={address}", None), ("run.seed=0", address)):
            if environment is not None:
                monkeypatch.setenv("RAY_ADDRESS", environment)
            run = load_config(TrainConfig, None, [config])
            with pytest.raises(ResourceError, match=r"^cluster\.address: ") as caught, cluster_for(run):
                pass
            assert said in str(caught.value)
