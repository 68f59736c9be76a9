"""What a process is that begins anew: what it imports, and that it finds what another one found."""

from __future__ import annotations

import json
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from gps_ray.base.types import Prompt
from gps_ray.config import SimulatedConfig
from gps_ray.rollout.simulated_engine import success_rates
from tests.processes import run_code, run_job
from tests.requirements import installed, package_name, requirements_of
from tests.unit.tasks.gym_sets import gym_sets

pytestmark = pytest.mark.ray

_HEAVY = ("ray", "vllm", "torch", "transformers", "datasets")


def test_importing_the_library_loads_nothing_and_choosing_loads_no_torch() -> None:
    prompts = [f"What is {a} + {b} ?" for a in range(1, 5) for b in range(1, 11)]
    code = (
        "import sys, time\nstart = time.process_time()\nimport gps_ray\nseconds = time.process_time() - start\n"
        f"found = [[name for name in {(*_HEAVY, 'numpy', 'sklearn')!r} if name in sys.modules], seconds]\n"
        f"s = gps_ray.Selector({prompts!r})\nr = s.next(8)\ns.update(r, r % 9, 8)\ns.next(8)\ns.predict(['new'])\n"
        f"import json; print(json.dumps([*found, [name for name in {_HEAVY!r} if name in sys.modules]]))"
    )
    done = run_code(code)
    assert done.returncode == 0, done.stderr
    at_import, seconds, after_use = json.loads(done.stdout)
    assert at_import == []
    assert seconds < 1
    assert after_use == []


def test_rates_are_the_same_in_every_process() -> None:
    # String hashing differs from process to process, and with it the order of sets.
    code = (
        "from gps_ray.config import SimulatedConfig; from gps_ray.rollout.simulated_engine import success_rates;"
        "from gps_ray.base.types import Prompt;"
        "p = Prompt(prompt_id='p', text='12 + 7 * 31 - 4 / 9', answer='', task='');"
        "print(float(success_rates([p], SimulatedConfig(), 3)[0]).hex())"
    )
    other = run_code(code).stdout
    prompt = Prompt(prompt_id="p", text="12 + 7 * 31 - 4 / 9", answer="", task="")
    assert other.strip() == float(success_rates([prompt], SimulatedConfig(), 3)[0]).hex()


def test_the_same_options_give_the_same_prompts_in_any_process_and_another_seed_others() -> None:
    code = (
        "from tests.unit.tasks.gym_sets import gym_sets\n"
        "print(' '.join(prompt.prompt_id for prompt in gym_sets().pool))"
    )
    ids = [prompt.prompt_id for prompt in gym_sets().pool]
    done = run_code(code)
    assert done.stdout.split() == ids, done.stderr
    assert ids != [prompt.prompt_id for prompt in gym_sets(seed=1).pool]


def test_the_command_ends_with_exit_code_2_and_the_line(tmp_path: Path) -> None:
    ended = run_job("replay", "--selectors", "gps", "--out", str(tmp_path))
    assert ended.returncode == 2
    assert ended.stderr == "error: expected --outcomes FILE, --static FILE or both, got neither\n"


def _run_without_others(code: str, *extras: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` as where the base dependencies and some extras are installed: nothing else can be imported."""
    kept = installed(requirements_of(*extras)) | {"gps-ray"}
    hidden = {
        module for module, names in metadata.packages_distributions().items() if not kept & {*map(package_name, names)}
    }
    assert {"ray", "pytest"} <= hidden
    code = (
        "import sys\nfrom importlib.machinery import PathFinder\nclass Kept(PathFinder):\n"
        "    @classmethod\n    def find_spec(cls, name, path=None, target=None):\n"
        f"        hidden = name.split('.')[0] in {sorted(hidden | {'vllm'})!r}\n"
        "        return None if hidden else super().find_spec(name, path, target)\n"
        "sys.meta_path[sys.meta_path.index(PathFinder)] = Kept\n"
    ) + code
    return run_code(code)


def test_the_learner_imports_with_the_train_extra_alone() -> None:
    """As on a node where nothing but the project's own installation was made: vLLM and the developers' tools absent."""
    code = "import gps_ray.learning.learner, gps_ray.learning.lora, gps_ray.learning.warm_start\n"
    done = _run_without_others(code, "train")
    assert done.returncode == 0, done.stderr


def test_the_library_and_the_console_command_work_with_the_base_dependencies_alone() -> None:
    """No torch, transformers, datasets, ray or vllm is there to be imported."""
    code = (
        "import gps_ray\nfrom gps_ray.integrations.commands import COMMANDS, main\nimport importlib\n"
        "for module, _ in COMMANDS.values(): importlib.import_module('gps_ray.integrations.commands.' + module)\n"
        "selector = gps_ray.Selector([f'{a} + {b} =' for a in range(9) for b in range(9)], 'gps_fused')\n"
        "rows = selector.next(8); selector.update(rows, rows % 9, 8)\n"
        "assert len(selector.next(8)) == 8 and len(gps_ray.allocate(selector.predict(), 99)) == 81\n"
        "assert main(['explain', 'rollout.vllm']) == 0\n"
        "try: gps_ray.Selector(['a', 'b'], 'gps')\n"
        "except gps_ray.ConfigError as error: assert 'needs torch, which is not installed' in str(error)\n"
        "else: raise AssertionError\n"
    )
    done = _run_without_others(code)
    assert done.returncode == 0, done.stderr


def test_the_table_of_transports_is_read_without_torch() -> None:
    code = (
        "import sys; from gps_ray.weights.transports import load_transport; load_transport('object_store'); "
        "sys.exit('torch' in sys.modules)"
    )
    done = run_code(code)
    assert done.returncode == 0, done.stderr
