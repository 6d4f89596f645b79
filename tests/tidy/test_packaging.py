"""The image, the compose file, the manifests and the package say what is so of the code."""

import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app import limits, main
from app.settings import load_settings
from tests.tidy.test_documents import ROOT, documented_settings

MANIFESTS = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
KUBERNETES = "1.30"
HEALTH_PATHS = re.findall(r'"(/health[\w/]*)"', (ROOT / "app/api/health.py").read_text())


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            yield f"{path.stem}-{document['kind']}", document


DOCUMENTS = dict(documents())
PODS = {
    name: document["spec"]["template"]["spec"]
    for name, document in DOCUMENTS.items()
    if "template" in document["spec" if "spec" in document else "metadata"]
}


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_manifest_is_what_kubernetes_takes(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_manifest_that_is_wrong_would_be_noticed() -> None:
    wrong = {**DOCUMENTS["api-Service"], "spec": {"ports": [{"prot": 80}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_there_is_a_manifest_for_everything_that_runs() -> None:
    assert set(DOCUMENTS) == {
        "api-Deployment",
        "api-PodDisruptionBudget",
        "api-Service",
        "configuration-ConfigMap",
        "migration-Job",
        "worker-Deployment",
    }
    commands = {name: pod["containers"][0]["command"] for name, pod in PODS.items()}
    modules = {name.partition("-")[0]: command[2] for name, command in commands.items()}
    assert modules == {"api": "app.main", "worker": "app.workers", "migration": "app.bootstrap"}


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_a_pod_runs_as_nobody_and_writes_nowhere(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert f"USER {pod['securityContext']['runAsUser']}:" in DOCKERFILE
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert container["image"] == f"sub-balance:{main.VERSION}"


def test_a_pod_that_ends_has_the_time_it_needs_and_none_is_missed() -> None:
    for name in ("api-Deployment", "worker-Deployment"):
        strategy = DOCUMENTS[name]["spec"]["strategy"]["rollingUpdate"]
        assert strategy["maxUnavailable"] == 0
        container = PODS[name]["containers"][0]
        pause_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds")
        needed_s = (pause_s or 0) + main._STOP_S + limits.LEAVE_S
        assert PODS[name]["terminationGracePeriodSeconds"] > needed_s
    api = PODS["api-Deployment"]["containers"][0]
    readiness = api["readinessProbe"]
    # Longer than it takes until nobody sends new requests to the pod.
    assert api["lifecycle"]["preStop"]["sleep"]["seconds"] > readiness["periodSeconds"]


def test_every_probe_asks_a_path_that_is_there() -> None:
    api = PODS["api-Deployment"]["containers"][0]
    paths = [
        api[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")
    ]
    paths += re.findall(r"(/health[\w/]*)'", f"{COMPOSE}{DOCKERFILE}")
    assert len(paths) == 5
    assert set(paths) <= set(HEALTH_PATHS)
    assert api["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert api["livenessProbe"]["httpGet"]["path"] == "/health/live"


def test_every_name_in_an_environment_is_a_setting_with_a_value_it_takes() -> None:
    environments = [DOCUMENTS["configuration-ConfigMap"]["data"]]
    ours = [each for each in COMPOSE["services"].values() if each["image"] == "sub-balance:local"]
    environments += [service["environment"] for service in ours]
    image = re.findall(r"^ENV (HOST=.*)$", DOCKERFILE, re.MULTILINE)
    environments += [dict(pair.split("=") for pair in line.split()) for line in image]
    assert len(environments) == 5
    for environment in environments:
        assert environment.keys() <= documented_settings()
        # Compose puts the default where nothing is set.
        load_settings({k: re.sub(r"\$\{\w+:-(.*)\}", r"\1", v) for k, v in environment.items()})


def test_the_compose_file_is_whole() -> None:
    services = COMPOSE["services"]
    assert services["postgres"]["image"] == "postgres:16"
    assert services["redis"]["image"] == "redis:7"
    command = services["redis"]["command"]
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
    mounts = {mount.partition(":")[0] for s in services.values() for mount in s.get("volumes", ())}
    folders = {mount for mount in mounts if mount.startswith("./")}
    assert mounts - folders == set(COMPOSE["volumes"])
    assert all((ROOT / folder).is_dir() for folder in folders)
    for name, service in services.items():
        for other, condition in service.get("depends_on", {}).items():
            waits_for = condition["condition"]
            assert waits_for != "service_healthy" or "test" in services[other]["healthcheck"], name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")
        assert service.get("command") is None or isinstance(service["command"], list)
    for name in ("migrate", "api", "worker"):
        assert services[name]["read_only"] is True


def test_prometheus_scrapes_what_shows_metrics_and_nobody_else_can() -> None:
    text = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
    # What stands there for those who have keys and TLS is switched on.
    guarded = yaml.safe_load(re.sub(r"^( *)# ( *[a-z_]+:)", r"\1\2", text, flags=re.MULTILINE))
    alike = yaml.safe_load((ROOT / "deploy/prometheus/compose.yml").read_text())
    for found, plain in ((guarded, yaml.safe_load(text)), (alike, alike)):
        assert [job["job_name"] for job in found["scrape_configs"]] == [
            "sub-balance-api",
            "sub-balance-worker",
        ]
        (rules,) = found["rule_files"]
        assert (ROOT / "deploy/prometheus" / rules).exists()
        added = found["scrape_configs"][0].keys() - plain["scrape_configs"][0].keys()
        assert added == (set() if found is plain else {"authorization", "scheme", "tls_config"})
    assert guarded["scrape_configs"][0]["authorization"].keys() == {"credentials_file"}
    worker = COMPOSE["services"]["worker"]
    port = worker["environment"]["SUBBALANCE_WORKER_METRICS_PORT"]
    assert worker["expose"] == [port]
    assert "ports" not in worker
    targets = [job["static_configs"][0]["targets"] for job in alike["scrape_configs"]]
    assert targets == [["api:8082"], [f"worker:{port}"]]
    (shown,) = PODS["worker-Deployment"]["containers"][0]["ports"]
    configured = DOCUMENTS["configuration-ConfigMap"]["data"]["SUBBALANCE_WORKER_METRICS_PORT"]
    assert str(shown["containerPort"]) == configured


def test_the_image_has_what_it_runs_and_no_tools_to_build() -> None:
    build, run = re.split(r"\n(?=FROM )", DOCKERFILE)[1:]
    base = re.compile(r"FROM python:3\.11\.\d+-slim-\w+")
    assert base.match(build)
    assert base.match(run)
    assert "pip " not in run
    assert "apt-get" not in DOCKERFILE
    assert "\nHEALTHCHECK " in run
    copied = re.findall(r"^COPY (?!--from)(\S+)", DOCKERFILE, re.MULTILINE)
    assert {"app", "lua", "sql", "subbalance", "requirements.lock"} == set(copied)
    let_through = (ROOT / ".dockerignore").read_text().splitlines()
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in let_through


def run(folder: Path, *command: str) -> str:
    """Run a program that ends well; what it printed."""
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True, timeout=100
    ).stdout


def test_the_package_brings_its_lua_and_sql_and_its_command(tmp_path: Path) -> None:
    build = "from hatchling.build import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    done = run(ROOT, sys.executable, "-c", build, str(tmp_path))
    wheel = tmp_path / done.splitlines()[-1]
    names = zipfile.ZipFile(wheel).namelist()
    for folder, kind in (("lua", "lua"), ("sql/migrations", "sql"), ("sql/queries", "sql")):
        there = sorted(path.name for path in (ROOT / folder).glob(f"*.{kind}"))
        assert sorted(f"app/{folder}/{name}" for name in there) == sorted(
            name for name in names if re.fullmatch(rf"app/{folder}/[^/]+\.{kind}", name)
        )
    assert not [name for name in names if name.startswith(("tests/", "bench/"))]
    # What it depends on is taken from this environment; itself is not, it has to be installed.
    place = tmp_path / "venv"
    venv.create(place, with_pip=False, symlinks=True)
    site = next(place.glob("lib/python*/site-packages"))
    here = next(Path(sys.prefix).glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(f"{here}\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(place)]
    options = ["--quiet", "--no-deps", "--no-index", "--ignore-installed"]
    run(tmp_path, *pip, "install", *options, str(wheel))
    look = (
        "import app.main, app.workers.__main__, app.bootstrap, app.instances;"
        "from app.infra.files import shipped;"
        "from app.infra.queries import load_queries; load_queries('ledger');"
        "print(shipped('lua'), shipped('sql'))"
    )
    found = run(tmp_path, str(place / "bin/python"), "-c", look).split()
    assert found == [str(site / "app/lua"), str(site / "app/sql")]
    assert "import" in run(tmp_path, str(place / "bin/subbalance"), "--help")
    # No database there: it says so instead of missing a file.
    outcome = subprocess.run(
        [place / "bin/python", "-m", "app.bootstrap"],
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
        env={"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none?connect_timeout=1"},
    )  # fmt: skip
    assert outcome.returncode == 1
    assert "PostgreSQL" in outcome.stderr
    assert "Traceback" not in outcome.stderr
