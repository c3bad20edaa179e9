"""What runs the pipeline agrees with itself: supervisord.conf, docker-compose.yml, env.example, the settings.

`python -m tests.contract.test_operations > env.example` writes env.example anew.
"""

import re
import stat
import sys
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from common.config import Settings
from common.probe import SHELL_SETTINGS

ROOT = Path(__file__).resolve().parents[2]
INGESTERS = {"polymarket_ingester", "goldsky_ingester", "polygon_ingester"}
STAGES = {"clickhouse_writer", "trade_processor", *INGESTERS, "dashboard"}
# Programs of supervisord.conf that are another image in docker-compose.yml.
SERVERS = {"embedded_redis": "redis", "embedded_clickhouse": "clickhouse"}
DRAIN_S = float(Settings.model_fields["drain_s"].default)
ENV_HEADER = """\
# Settings. Copy this file to .env and take the # off the lines that you change; the values here are the defaults.
# A variable of the environment wins over .env. `.venv/bin/python -m common.config` prints what is in force.
"""


def env_example() -> str:
    """Return what env.example has to say: every setting with its description and its default, and nothing else."""
    settings = (
        f"\n# {field.description}\n#{name.upper()}={_as_text(field.default)}\n"
        for name, field in Settings.model_fields.items()
    )
    return ENV_HEADER + "".join(settings)


def _as_text(default: object) -> str:
    assert default is not PydanticUndefined, "every setting has a default"
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    return "" if default is None else str(default)


@pytest.fixture(scope="module")
def supervisord() -> RawConfigParser:
    parser = RawConfigParser(inline_comment_prefixes=(";",))
    parser.read(ROOT / "supervisord.conf")
    return parser


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def programs(supervisord: RawConfigParser) -> dict[str, dict[str, str]]:
    sections = [name for name in supervisord.sections() if name.startswith("program:")]
    return {name.removeprefix("program:"): dict(supervisord[name]) for name in sections}


def own_services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: service for name, service in compose["services"].items() if "build" in service}


def test_env_example_lists_every_setting_with_its_default_and_nothing_else() -> None:
    how = "run: .venv/bin/python -m tests.contract.test_operations > env.example"
    assert (ROOT / "env.example").read_text() == env_example(), how


def test_supervisord_and_compose_run_the_same_processes(supervisord: RawConfigParser, compose: dict[str, Any]) -> None:
    supervised = {SERVERS.get(name, name.replace("_", "-")) for name in programs(supervisord)}
    assert supervised == set(compose["services"]) - {"schema"}


def test_supervisord_and_compose_start_a_stage_with_the_same_module(
    supervisord: RawConfigParser, compose: dict[str, Any]
) -> None:
    for stage in STAGES:
        module = programs(supervisord)[stage]["command"].split(" -m ")[1]
        assert compose["services"][stage.replace("_", "-")]["command"][1:] == ["-m", module]


def test_the_stages_of_start_sh_are_those_of_supervisord(supervisord: RawConfigParser) -> None:
    listed = re.search(r'^STAGES="(.*)"$', (ROOT / "start.sh").read_text(), re.MULTILINE)
    assert listed is not None
    assert set(listed[1].split()) == STAGES
    assert set(programs(supervisord)) == STAGES | set(SERVERS) | {"simulator"}


def test_the_pipeline_is_stopped_from_its_sources_to_its_servers(supervisord: RawConfigParser) -> None:
    priority = {name: int(program["priority"]) for name, program in programs(supervisord).items()}
    ingesters = [priority[name] for name in INGESTERS]
    assert priority["dashboard"] > max(ingesters)
    assert min(ingesters) > priority["trade_processor"] > priority["clickhouse_writer"] > priority["simulator"]
    assert priority["simulator"] > max(priority[name] for name in SERVERS)


def test_every_program_has_time_to_drain_and_a_log_that_rotates(supervisord: RawConfigParser) -> None:
    for name, program in programs(supervisord).items():
        assert int(program["stopwaitsecs"]) > 2 * DRAIN_S, name
        assert program["stdout_logfile"].endswith("/%(program_name)s.log"), name
        assert {"stdout_logfile_maxbytes", "stdout_logfile_backups"} <= set(program), name
        assert (program["redirect_stderr"], program["autostart"]) == ("true", "false"), name
        assert (program["stopasgroup"], program["killasgroup"]) == ("true", "true"), name


def test_a_process_is_started_again_unless_its_configuration_is_wrong(supervisord: RawConfigParser) -> None:
    for name, program in programs(supervisord).items():
        expected = "2" if name in STAGES else "2,3"  # 3: a server that is not needed here; 0: it was ended from outside
        assert (program["autorestart"], program["exitcodes"]) == ("unexpected", expected), name
        assert (program["startsecs"], "startretries" in program) == ("1", True), (
            "a failing start is not repeated at once"
        )


def test_supervisord_listens_on_a_socket_for_its_user_alone(supervisord: RawConfigParser) -> None:
    assert supervisord["unix_http_server"]["chmod"] == "0700"
    assert not [name for name in supervisord.sections() if name.startswith("inet_http_server")]


def test_settings_of_the_embedded_servers_reach_them() -> None:
    servers = "".join(path.read_text() for path in (ROOT / "embedded").glob("*_server.py"))
    asked_for = {name.upper() for name in Settings.model_fields} & set(re.findall(r'"([A-Z_]+)"', servers))
    exported = re.findall(r"export ([A-Z_ ]+)$", (ROOT / "start.sh").read_text(), re.MULTILINE)
    assert {"CLICKHOUSE_PASSWORD", "CLICKHOUSE_ALLOWED_HOSTS"} <= asked_for
    assert asked_for <= set(" ".join(exported).split())
    assert asked_for <= {name.upper() for name in SHELL_SETTINGS}


def test_supervisorctl_finds_the_socket_without_any_variable_set(supervisord: RawConfigParser) -> None:
    assert supervisord["supervisorctl"]["serverurl"] == "unix://%(here)s/data/run/supervisor.sock"


def test_images_are_pinned(compose: dict[str, Any]) -> None:
    images = [service["image"] for service in compose["services"].values()]
    images += re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for image in images:
        name, _, tag = image.partition(":")
        assert name
        assert re.search(r"\d|local", tag), image
        assert "latest" not in tag


def test_ports_are_open_to_this_machine_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_password_is_written_down() -> None:
    for name in ("docker-compose.yml", "Dockerfile", "supervisord.conf", "env.example", "start.sh", "functions.sh"):
        without_references = re.sub(r"\$\{\w+:-\}", "", (ROOT / name).read_text())
        assert re.findall(r"PASSWORD\s*[:=][ \t]*(\S+)", without_references) == [], name


def test_every_setting_reaches_the_containers(compose: dict[str, Any]) -> None:
    in_containers = {"LOG_DIR"}  # the console is the log there
    assert set(compose["x-settings"]) == {name.upper() for name in Settings.model_fields} - in_containers
    for name, value in compose["x-settings"].items():
        if str(value).startswith("$"):
            assert value in {f"${{{name}:-}}", "${PIPELINE_MODE:-live}"}


def test_every_container_is_checked_and_has_time_to_drain(compose: dict[str, Any]) -> None:
    for name, service in own_services(compose).items():
        if name == "schema":
            continue
        assert "healthcheck" in service or service["environment"]["COMPONENT"] == name.replace("-", "_")
        assert (service["stop_grace_period"], service["restart"]) == ("60s", "unless-stopped")
    for server in SERVERS.values():
        assert "healthcheck" in compose["services"][server]


def test_the_stages_wait_for_servers_and_tables(compose: dict[str, Any]) -> None:
    for stage in STAGES:
        assert compose["services"][stage.replace("_", "-")]["depends_on"] == {
            "schema": {"condition": "service_completed_successfully"},
            "redis": {"condition": "service_healthy"},
            "clickhouse": {"condition": "service_healthy"},
        }


def test_the_simulator_belongs_to_the_demo_alone(compose: dict[str, Any]) -> None:
    profiles = {name: service["profiles"] for name, service in compose["services"].items() if "profiles" in service}
    assert profiles == {"simulator": ["demo"]}


def test_demo_and_live_data_have_volumes_of_their_own(compose: dict[str, Any]) -> None:
    for server in SERVERS.values():
        (volume,) = compose["services"][server]["volumes"]
        assert volume.startswith(f"${{PIPELINE_MODE:-live}}-{server}:")
        assert {f"live-{server}", f"demo-{server}"} <= set(compose["volumes"])


def test_the_image_runs_without_root_and_without_pinned_secrets() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER pipeline$", dockerfile, re.MULTILINE)
    assert "HEALTHCHECK" in dockerfile


def test_the_image_holds_only_what_runs() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {"!tests", "!embedded", "!.env", "!data", "!.git"}.isdisjoint(ignored)


@pytest.mark.parametrize("script", ["start.sh", "stop.sh", "test.sh", ".ci/run"])
def test_scripts_are_executable_and_stop_at_the_first_failure(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & stat.S_IXUSR
    text = path.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text


@pytest.mark.parametrize("script", ["start.sh", "stop.sh", "test.sh", "functions.sh"])
def test_scripts_run_with_the_bash_of_macos_and_never_ask(script: str) -> None:
    newer = r"mapfile|readarray|declare -A|local -n|\$\{\w+(\^\^|,,)|\|&|&>>|\bread -p\b|pkill|killall"
    assert re.findall(newer, (ROOT / script).read_text()) == []


if __name__ == "__main__":
    sys.stdout.write(env_example())
