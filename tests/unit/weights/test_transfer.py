import pytest

from gps_ray.base.errors import RolloutError
from gps_ray.weights.transfer import check_same_gpu, init_info


def _message(*uuids: str) -> dict[str, object]:
    return {"names": list("ab")[: len(uuids)], "ipc_handles": [{uuid: ("args",)} for uuid in uuids]}


def test_handles_of_the_engines_own_gpu_pass() -> None:
    check_same_gpu(_message("GPU-1", "GPU-1"), "GPU-1")


def test_handles_of_another_gpu_are_refused_with_both_named() -> None:
    with pytest.raises(RolloutError, match=r"rollout\.vllm\.weight_transfer.*on GPU-2, the engine on GPU-1") as caught:
        check_same_gpu(_message("GPU-1", "GPU-2"), "GPU-1")
    assert "object_store" in str(caught.value)


def test_weights_in_place_of_handles_are_refused() -> None:
    with pytest.raises(RolloutError, match=r"rollout\.vllm\.weight_transfer: ipc expected handles"):
        check_same_gpu({"model.norm.weight": [1.0]}, "GPU-1")


def test_handles_are_sent_unpacked() -> None:
    assert init_info("object_store") == {}
    assert init_info("ipc") == {"packed": False}
