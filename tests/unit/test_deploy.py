"""deploy/: what its files name is there, and its pins are the project's.

KubeRay's own schema is no part of this project. With KUBERAY_CRDS set to a folder that holds it, its repository's
ray-operator/config/crd/bases, the manifests are held to it, down to fields that it does not know.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from gps_ray.config import TrainConfig, load_config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kuberay" / name).read_text()))


def _cluster(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = _documents(name)[-1]["spec"]
    return spec.get("rayClusterSpec", spec)


def _bash(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    bare = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": "/nonexistent"} | environment
    return subprocess.run(["bash", *arguments], cwd=ROOT, env=bare, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_kuberay_clusters_have_the_projects_ray_a_token_and_shared_storage(name: str) -> None:
    cluster = _cluster(name)
    assert f"ray[default,train]=={cluster['rayVersion']}" in PROJECT["optional-dependencies"]["ray"]
    assert cluster["authOptions"] == {"mode": "token"}
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] == workers["replicas"] == workers["maxReplicas"]
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == f"REGISTRY/gps-ray:{PROJECT['version']}-gpu"
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/shared"]
        assert (
            pod["volumes"][0]["persistentVolumeClaim"]["claimName"]
            == _documents("raycluster.yaml")[0]["metadata"]["name"]
        )


def test_both_kuberay_clusters_are_the_same() -> None:
    assert _cluster("raycluster.yaml") == _cluster("rayjob.yaml")


def test_the_ray_jobs_entrypoint_is_a_run_that_its_cluster_holds() -> None:
    from gps_ray.loop.resources import check_resources

    python, minus_m, module, *arguments = shlex.split(_documents("rayjob.yaml")[0]["spec"]["entrypoint"])
    assert (python, minus_m, module) == ("python", "-m", "jobs.train")
    config = load_config(
        TrainConfig, ROOT / arguments[arguments.index("--config") + 1], [word for word in arguments if "=" in word]
    )
    assert "--resume" in arguments
    assert config.run.directory.is_relative_to("/shared")
    workers = _cluster("rayjob.yaml")["workerGroupSpecs"][0]
    of_one = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    total = {
        "CPU": workers["replicas"] * float(of_one["cpu"]),
        "GPU": workers["replicas"] * float(of_one["nvidia.com/gpu"]),
    }
    check_resources(config, total, "the cluster")


def test_the_image_is_built_of_what_is_there() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.*)$", dockerfile, re.MULTILINE) for name in line.split()[:-1]]
    assert {"gps_ray", "actors", "jobs", "configs", "pyproject.toml"} <= set(copied)
    let_through = [
        line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().split() if line.startswith("!")
    ]
    for name in copied:
        assert (ROOT / name).exists(), name
        assert any(Path(name).match(pattern) for pattern in let_through), name
    (python,) = re.findall(r"^FROM python:([\d.]+)", dockerfile, re.MULTILINE)
    assert PROJECT["requires-python"] == f">={python}"
    # setuptools asks for the files that the project names.
    assert {PROJECT["readme"], *PROJECT["license-files"]} <= set(copied)


@pytest.mark.parametrize("script", ["ray_node.sh", "slurm.sh"])
def test_scripts_are_bash(script: str) -> None:
    assert _bash("-n", f"deploy/{script}").returncode == 0


def test_slurm_asks_for_what_its_script_uses() -> None:
    text = (DEPLOY / "slurm.sh").read_text()
    directives = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", text, re.MULTILINE))
    assert directives["ntasks-per-node"] == "1"  # one Ray node per host
    # Room for the step at hand and its checkpoint before Slurm kills.
    assert directives["signal"] == "B:TERM@120"
    assert TrainConfig().run.preemption_grace_s < 120
    assert "python -m jobs.train --resume" in text


def test_the_scripts_say_what_is_missing() -> None:
    alone = _bash("deploy/slurm.sh")
    assert alone.returncode == 2
    assert "sbatch" in alone.stderr
    no_token = _bash("deploy/ray_node.sh", "head")
    assert no_token.returncode == 2
    assert "ray get-auth-token --generate" in no_token.stderr
    no_head = _bash("deploy/ray_node.sh", "worker", "127.0.0.1:9", RAY_AUTH_TOKEN="0" * 32, GPS_RAY_WAIT_S="0")
    assert no_head.returncode == 2
    assert "nobody answers at 127.0.0.1:9" in no_head.stderr
    assert _bash("deploy/ray_node.sh", "worker", RAY_AUTH_TOKEN="0" * 32).returncode == 2


def _closed(schema: Any) -> Any:
    """A CRD's schema in which a field that it does not know is an error: the API server would drop it in silence."""
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    closed = {
        key: _closed(value) if key in ("items", "additionalProperties") else value for key, value in schema.items()
    }
    if "properties" in schema:
        closed["properties"] = {name: _closed(below) for name, below in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    return closed


@pytest.mark.skipif("KUBERAY_CRDS" not in os.environ, reason="KUBERAY_CRDS names no folder of KubeRay's CRDs")
@pytest.mark.parametrize("kind", ["raycluster", "rayjob"])
def test_kuberay_takes_the_manifests(kind: str) -> None:
    crd = yaml.safe_load((Path(os.environ["KUBERAY_CRDS"]) / f"ray.io_{kind}s.yaml").read_text())
    (version,) = [version for version in crd["spec"]["versions"] if version["name"] == "v1"]
    schema = _closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # the API server's own
    validator = jsonschema.Draft7Validator(schema)
    manifest = _documents(f"{kind}.yaml")[-1]
    assert [error.message for error in validator.iter_errors(manifest)] == []
    manifest["spec"]["entrypiont"] = "true"
    assert [error.message for error in validator.iter_errors(manifest)] != []
