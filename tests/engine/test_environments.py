"""Runtime environments: what workers find, who inherits it, and what is refused where."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from engine import exceptions
from engine.core.environments import decode_environment, encode_environment, merge_environments
from engine.runtime.environments import expand
from engine.runtime_env import RuntimeEnv
from tests.engine.support import eventually

SECONDS = 20


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two directories with modules of the same name, and a package and a module elsewhere."""
    root = tmp_path_factory.mktemp("project")
    for name in ("one", "two"):
        (root / name).mkdir()
        (root / name / "where_am_i.py").write_text(f"NAME = {name!r}\n")
    (root / "lib" / "toolbox").mkdir(parents=True)
    (root / "lib" / "toolbox" / "__init__.py").write_text("SIZE = 5\n")
    (root / "single.py").write_text("ANSWER = 42\n")
    return root


@pytest.fixture(scope="module")
def job() -> Iterator[Any]:
    """An engine whose work runs in an environment of its own."""
    assert not engine.is_initialized()
    engine.init(num_cpus=2, runtime_env={"env_vars": {"JOB": "job", "LEVEL": "job"}})
    yield engine
    engine.shutdown()


@engine.remote
def variables(*names: str) -> list[Any]:
    return [os.environ.get(name) for name in names]


@engine.remote
def nested(child: Any, *args: Any) -> Any:
    return engine.get(child.remote(*args))


@engine.remote
class Probe:
    def variables(self, *names: str) -> list[Any]:
        return [os.environ.get(name) for name in names]

    def child(self, *names: str) -> Any:
        return engine.get(variables.remote(*names))

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os._exit(1)


def with_variables(**values: str) -> dict[str, Any]:
    return {"runtime_env": {"env_vars": values}}


# ---------------------------------------------------------------------------------- as data

TEXTS = st.dictionaries(st.sampled_from("ABC"), st.text("xyz", max_size=2))
ENVIRONMENTS = st.fixed_dictionaries(
    {}, optional={"env_vars": TEXTS, "working_dir": st.just("/d"), "py_modules": st.just(["/m"])}
)


@given(ENVIRONMENTS, ENVIRONMENTS)
def test_merging(parent: dict[str, Any], child: dict[str, Any]) -> None:
    merged = merge_environments(parent, child)
    for field in ("working_dir", "py_modules"):
        assert merged.get(field) == child.get(field, parent.get(field))
    wanted = parent.get("env_vars", {}) | child.get("env_vars", {})
    assert merged.get("env_vars", {}) == wanted
    assert merge_environments({}, child) == child
    assert merge_environments(parent, {}) == parent


@given(ENVIRONMENTS)
def test_equal_environments_are_equal_bytes(environment: dict[str, Any]) -> None:
    turned = {name: environment[name] for name in reversed(environment)}
    if "env_vars" in turned:
        turned["env_vars"] = dict(reversed(turned["env_vars"].items()))
    assert encode_environment(turned) == encode_environment(environment)
    said = {name: value for name, value in environment.items() if value}
    assert decode_environment(encode_environment(environment)) == said
    assert (encode_environment(environment) == b"") == (not said)


def test_references_between_variables() -> None:
    variables = {"A": "${B}-${HOME}", "B": "b${C}", "C": "${C}:c", "D": "${NOT_THERE}", "E": "$A"}
    assert expand(variables, {"HOME": "/h", "C": "old", "B": "older"}) == {
        "A": "bold:c-/h", "B": "bold:c", "C": "old:c", "D": "", "E": "$A",
    }  # fmt: skip
    assert expand({"A": "${B}", "B": "${A}"}, {"A": "x", "B": "y"}) == {"A": "x", "B": "y"}


# ------------------------------------------------------------------------------- inheritance


def test_the_jobs_environment_reaches_tasks_and_actors_and_not_the_driver(job: Any) -> None:
    assert job.get(variables.remote("JOB", "LEVEL"), timeout=SECONDS) == ["job", "job"]
    assert job.get(Probe.remote().variables.remote("JOB"), timeout=SECONDS) == ["job"]
    assert "JOB" not in os.environ


def test_variables_are_merged_task_over_actor_over_job(job: Any) -> None:
    names = ("JOB", "LEVEL", "OWN")
    given = variables.options(**with_variables(LEVEL="task", OWN="yes"))
    assert job.get(given.remote(*names), timeout=SECONDS) == ["job", "task", "yes"]
    actor = Probe.options(**with_variables(LEVEL="actor")).remote()
    assert job.get(actor.variables.remote(*names), timeout=SECONDS) == ["job", "actor", None]
    assert job.get(actor.child.remote(*names), timeout=SECONDS) == ["job", "actor", None]
    deep = nested.options(**with_variables(LEVEL="outer", OWN="outer"))
    inner = variables.options(**with_variables(OWN="inner"))
    assert job.get(deep.remote(inner, *names), timeout=SECONDS) == ["job", "outer", "inner"]
    assert job.get(deep.remote(variables, *names), timeout=SECONDS) == ["job", "outer", "outer"]


def test_a_function_bound_here_is_bound_anew_where_another_environment_rules(job: Any) -> None:
    """`variables` was used by the driver before it travels, with the driver's own binding."""
    assert job.get(variables.remote("LEVEL"), timeout=SECONDS) == ["job"]
    deep = nested.options(**with_variables(LEVEL="outer"))
    assert job.get(deep.remote(variables, "LEVEL"), timeout=SECONDS) == ["outer"]


def test_workers_are_separate(job: Any) -> None:
    @job.remote
    def pid() -> int:
        os.environ["DIRTY"] = "yes"
        return os.getpid()

    plain = {job.get(pid.remote()) for _ in range(5)}
    special = pid.options(**with_variables(SPECIAL="1"))
    theirs = {job.get(special.remote()) for _ in range(5)}
    assert len(theirs) == 1, "a warm worker of the environment is used again"
    assert not plain & theirs
    again = pid.options(**with_variables(SPECIAL="1"))
    assert {job.get(again.remote()) for _ in range(3)} == theirs


def test_many_environments_share_two_cpus(job: Any) -> None:
    refs = [
        variables.options(**with_variables(NUMBER=str(number % 7))).remote("NUMBER", "JOB")
        for number in range(70)
    ]
    found = job.get(refs, timeout=SECONDS)
    assert found == [[str(number % 7), "job"] for number in range(70)]


def test_a_restarted_actor_finds_its_environment_again(job: Any) -> None:
    actor = Probe.options(max_restarts=1, **with_variables(OWN="kept")).remote()
    first = job.get(actor.pid.remote(), timeout=SECONDS)
    actor.die.remote()

    def second() -> Any:
        try:
            return job.get(actor.pid.remote(), timeout=SECONDS) != first
        except exceptions.ActorUnavailableError:
            return False

    eventually(second, SECONDS)
    assert job.get(actor.variables.remote("OWN", "LEVEL"), timeout=SECONDS) == ["kept", "job"]


def test_the_context_tells_the_environment(job: Any) -> None:
    @job.remote
    def environment() -> Any:
        context = job.get_runtime_context()
        return context.runtime_env, context.get_runtime_env_string()

    given = environment.options(**with_variables(OWN="x"))
    found, text = job.get(given.remote(), timeout=SECONDS)
    assert isinstance(found, RuntimeEnv)
    assert found == {"env_vars": {"JOB": "job", "LEVEL": "job", "OWN": "x"}}
    assert text == '{"env_vars": {"JOB": "job", "LEVEL": "job", "OWN": "x"}}'
    assert job.get_runtime_context().runtime_env["env_vars"]["JOB"] == "job"


# ------------------------------------------------------------------------------ what is there


def test_working_directories(job: Any, project: Path) -> None:
    @job.remote
    def look() -> Any:
        import where_am_i

        return where_am_i.NAME, os.getcwd(), sys.path[0]

    for name in ("one", "two"):
        folder = project / name
        given = look.options(runtime_env={"working_dir": folder})
        assert job.get(given.remote(), timeout=SECONDS) == (name, str(folder), str(folder))
    inherited = nested.options(runtime_env={"working_dir": str(project / "two")})
    assert job.get(inherited.remote(look), timeout=SECONDS)[0] == "two"
    replaced = look.options(runtime_env={"working_dir": str(project / "one")})
    assert job.get(inherited.remote(replaced), timeout=SECONDS)[0] == "one"


def test_a_relative_directory_means_the_drivers(
    job: Any, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    given = variables.options(runtime_env={"working_dir": "./one"})
    monkeypatch.chdir("/")

    @job.remote
    def folder() -> str:
        return os.getcwd()

    here = folder.options(runtime_env=given._options["runtime_env"])
    assert job.get(here.remote(), timeout=SECONDS) == str(project / "one")


def test_modules(job: Any, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @job.remote
    def use() -> Any:
        import single
        import toolbox

        return single.ANSWER, toolbox.SIZE

    paths = [str(project / "lib" / "toolbox"), project / "single.py"]
    given = use.options(runtime_env={"py_modules": paths})
    assert job.get(given.remote(), timeout=SECONDS) == (42, 5)
    monkeypatch.syspath_prepend(str(project / "lib"))
    monkeypatch.syspath_prepend(str(project))
    import single  # type: ignore[import-not-found]
    import toolbox  # type: ignore[import-not-found]

    given = use.options(runtime_env=RuntimeEnv(py_modules=[toolbox, single]))
    assert job.get(given.remote(), timeout=SECONDS) == (42, 5)


def test_thread_counts_take_effect_in_libraries_that_are_loaded_already(job: Any) -> None:
    @job.remote
    def counts() -> list[int]:
        import ctypes

        import numpy
        import pyarrow

        found = [pyarrow.cpu_count()]
        folder = Path(numpy.__file__).parent.parent / "numpy.libs"
        for path in folder.glob("libscipy_openblas64_*.so"):
            library = ctypes.CDLL(str(path))
            found.append(library.scipy_openblas_get_num_threads64_())
        return found

    plain = job.get(counts.remote(), timeout=SECONDS)
    assert set(plain) == {1}
    given = counts.options(**with_variables(OMP_NUM_THREADS="3"))
    assert set(job.get(given.remote(), timeout=SECONDS)) == {3}
    lists = counts.options(**with_variables(OMP_NUM_THREADS="3,2"))
    assert set(job.get(lists.remote(), timeout=SECONDS)) == {1}, "not a number: left alone"


def test_python_path_and_time_zone_take_effect(job: Any, project: Path) -> None:
    @job.remote
    def look() -> Any:
        import time

        import where_am_i

        return where_am_i.NAME, time.tzname[0]

    path = f"{project / 'one'}{os.pathsep}${{PYTHONPATH}}"
    given = look.options(**with_variables(PYTHONPATH=path, TZ="EST5EDT"))
    assert job.get(given.remote(), timeout=SECONDS) == ("one", "EST")


# -------------------------------------------------------------------------------- what fails


def test_what_fails_in_the_worker_reaches_every_caller_and_is_tried_again_later(
    job: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    given = variables.options(runtime_env={"working_dir": str(folder)})
    actors = Probe.options(runtime_env={"working_dir": str(folder)})
    folder.rmdir()
    refs = [given.remote("JOB") for _ in range(5)]
    chained = given.remote(given.remote("JOB"))
    actor = actors.remote()
    calls = [actor.pid.remote() for _ in range(2)]
    for ref in [*refs, chained, *calls]:
        with pytest.raises(exceptions.RuntimeEnvSetupError, match=r"No such file.*gone"):
            job.get(ref, timeout=SECONDS)
    folder.mkdir()
    assert job.get(given.remote("JOB"), timeout=SECONDS) == ["job"]
    assert job.get(actors.remote().variables.remote("JOB"), timeout=SECONDS) == ["job"]


def test_a_module_that_is_gone_by_then(job: Any, tmp_path: Path) -> None:
    module = tmp_path / "passing.py"
    module.touch()
    given = variables.options(runtime_env={"py_modules": [str(module)]})
    module.unlink()
    with pytest.raises(exceptions.RuntimeEnvSetupError, match=r"passing\.py"):
        job.get(given.remote("JOB"), timeout=SECONDS)


def test_a_generator_hears_of_it_too(job: Any, tmp_path: Path) -> None:
    folder = tmp_path / "short"
    folder.mkdir()

    @job.remote(runtime_env={"working_dir": str(folder)})
    def items() -> Iterator[int]:
        yield 1

    shutil.rmtree(folder)
    stream = items.remote()
    with pytest.raises(exceptions.RuntimeEnvSetupError):
        job.get(next(stream), timeout=SECONDS)


REFUSED = [
    (5, TypeError, "expected a dictionary"),
    ({1: 2}, TypeError, "expected a dictionary"),
    ({"env_vars": ["A"]}, TypeError, "expected a dictionary of strings"),
    ({"env_vars": {"A": 1}}, TypeError, "write '4', not 4"),
    ({"env_vars": {"A=B": "1"}}, ValueError, "no system can have such a variable"),
    ({"env_vars": {"": "1"}}, ValueError, "no system can have such a variable"),
    ({"working_dir": 5}, TypeError, "expected a path"),
    ({"working_dir": "/no/such/place"}, ValueError, "there is no '/no/such/place'"),
    ({"working_dir": __file__}, ValueError, "is not a directory"),
    ({"working_dir": "https://host/x.zip"}, ValueError, "downloads nothing"),
    ({"py_modules": "x"}, TypeError, "expected a list of paths or module objects"),
    ({"py_modules": [5]}, TypeError, "expected a path"),
    ({"py_modules": ["/no/such/module.py"]}, ValueError, "there is no"),
    ({"py_modules": [sys]}, ValueError, "has no file"),
    ({"py_modules": ["/etc/passwd"]}, ValueError, "neither a directory nor a .py file"),
    ({"pip": ["requests"]}, ValueError, "no field 'pip'.*install the packages"),
    ({"conda": "env"}, ValueError, "no field 'conda'.*start the driver"),
    ({"container": {}}, ValueError, "inside of the container"),
    ({"excludes": ["*.log"]}, ValueError, "used in place"),
    ({"worker_process_setup_hook": print}, ValueError, "actor's constructor"),
    ({"env_var": {}}, ValueError, "unknown field 'env_var'.*known are: env_vars"),
]


@pytest.mark.parametrize("row", range(len(REFUSED)))
def test_mistakes_are_refused_where_they_are_made(row: int) -> None:
    given, error, message = REFUSED[row]
    with pytest.raises(error, match=f"(?s){message}"):
        variables.options(runtime_env=given)
    with pytest.raises(error, match=f"(?s){message}"):
        engine.remote(runtime_env=given)(type("Some", (), {}))
    was = engine.is_initialized()
    if not was:
        with pytest.raises(error, match=f"(?s){message}"):
            engine.init(runtime_env=given)
        assert not engine.is_initialized()


def test_fields_that_say_nothing_are_fine() -> None:
    assert RuntimeEnv(pip=None, env_vars={}) == {"env_vars": {}}
    assert variables.options(runtime_env={}) is not None
    assert RuntimeEnv(working_dir="/").to_dict() == {"working_dir": "/"}
