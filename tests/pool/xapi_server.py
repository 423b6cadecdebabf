"""A small XAPI: the wire of its local socket, over records in memory.

In a test: `with XapiServer(socket) as xapi: sr = xapi.add_sr(...)`, then run whatever talks to
XAPI, in this process or in others. By itself, as `python -m tests.pool.xapi_server SOCKET`, it
serves one host until it is told to end, and first prints what a plugin call needs: the host and a
session. `--sr UUID:TYPE:KEY=VALUE,...` adds an SR with its PBD.

Only what the interface promises is imitated: envelopes, wire types, errors, sessions, atomic maps.
"""

import argparse
import json
import signal
import subprocess
import sys
import threading
import uuid as uuids
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from xmlrpc.client import DateTime

from tests.pool import expressions
from tests.pool.unix_server import Server
from tests.support.patience import patient

PLUGINS = Path(__file__).resolve().parents[2] / "etc" / "xapi.d" / "plugins"
NULL_REF = "OpaqueRef:NULL"
NO_TIME = "19700101T00:00:00Z"

DB_INTRODUCE = (
    *("uuid", "name_label", "name_description", "SR", "type", "sharable", "read_only"),
    *("other_config", "location", "xenstore_data", "sm_config", "managed", "virtual_size"),
    *("physical_utilisation", "metadata_of_pool", "is_a_snapshot", "snapshot_time"),
    *("snapshot_of", "cbt_enabled"),
)
"""The parameters of `VDI.db_introduce`, in their order."""

SETTABLE = {
    "SR": "virtual_allocation physical_size physical_utilisation sm_config name_label",
    "VDI": "managed virtual_size physical_utilisation read_only is_a_snapshot snapshot_of "
    "snapshot_time name_label name_description metadata_of_pool cbt_enabled missing sm_config",
    "task": "status progress other_config",
}
MAPS = {"SR": "sm_config other_config", "VDI": "sm_config other_config", "PBD": "other_config"}


class Refusal(Exception):
    """What XAPI answers as `ErrorDescription`."""


class XapiServer:
    """Records by class and reference, in their wire form; safe to look at while it serves."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, dict[str, dict[str, Any]]] = {
            name: {}
            for name in ("host", "host_metrics", "pool", "SR", "PBD", "VDI", "task", "secret")
        }
        self.sessions: set[str] = set()
        self.calls: list[str] = []
        self.logins = 0
        self.plugins: dict[str, dict[str, str]] = {}
        self.lock = threading.RLock()
        self._server: Server | None = None

    # Records, for tests

    def add_host(self, name: str = "host", uuid: str | None = None) -> str:
        """Add a host; the first one is the master of the pool."""
        metrics = self._add("host_metrics", live=True)
        host = self._add(
            "host",
            uuid=uuid,
            name_label=name,
            hostname=name,
            address="192.0.2.1",
            enabled=True,
            metrics=metrics,
            other_config={},
            local_cache_sr=NULL_REF,
        )
        if not self.records["pool"]:
            self._add("pool", master=host, restrictions={})
        return host

    def add_sr(self, sr_type: str = "file", uuid: str | None = None, **fields: Any) -> str:
        """Add an SR."""
        return self._add(
            "SR",
            uuid=uuid,
            **{
                "name_label": "",
                "name_description": "",
                "type": sr_type,
                "content_type": "user",
                "shared": False,
                "virtual_allocation": "0",
                "physical_size": "0",
                "physical_utilisation": "0",
                "sm_config": {},
                "other_config": {},
                **fields,
            },
        )

    def add_pbd(self, sr: str, host: str, device_config: dict[str, str], **fields: Any) -> str:
        """Say how a host reaches an SR."""
        return self._add(
            "PBD",
            SR=sr,
            host=host,
            device_config=device_config,
            **{"currently_attached": False, "other_config": {}, **fields},
        )

    def add_secret(self, value: str) -> str:
        """Keep a password; returns the UUID of its secret."""
        uuid = str(uuids.uuid4())
        self._add("secret", uuid=uuid, value=value)
        return uuid

    def add_vdi(self, sr: str, uuid: str | None = None, **fields: Any) -> str:
        """Add a VDI; `fields` in wire form."""
        identity = uuid or str(uuids.uuid4())
        defaults = {
            "name_label": "",
            "name_description": "",
            "SR": sr,
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {},
            "location": identity,
            "xenstore_data": {},
            "sm_config": {},
            "managed": True,
            "virtual_size": "0",
            "physical_utilisation": "0",
            "metadata_of_pool": NULL_REF,
            "is_a_snapshot": False,
            "snapshot_time": DateTime(NO_TIME),
            "snapshot_of": NULL_REF,
            "cbt_enabled": False,
            "missing": False,
            "on_boot": "persist",
            "allow_caching": False,
        }
        return self._add("VDI", uuid=identity, **{**defaults, **fields})

    def new_session(self) -> str:
        """A session, as XAPI makes one for each call of a plugin."""
        ref = _new_ref()
        with self.lock:
            self.sessions.add(ref)
        return ref

    def end_sessions(self) -> None:
        """End every session, as a restart of XAPI does."""
        with self.lock:
            self.sessions.clear()

    def write_inventory(self, path: Path, host: str) -> Path:
        """Write the inventory file of a host."""
        uuid = self.records["host"][host]["uuid"]
        path.write_text(f"PRODUCT_BRAND='x'\nINSTALLATION_UUID='{uuid}'\n", encoding="ascii")
        return path

    def _add(self, kind: str, *, uuid: str | None = None, **fields: Any) -> str:
        identity = uuid or str(uuids.uuid4())
        with self.lock:
            for record in self.records[kind].values():
                if record["uuid"] == identity:
                    raise Refusal("UNIQUENESS_CONSTRAINT_VIOLATION", kind, "uuid", identity)
            ref = _new_ref()
            self.records[kind][ref] = {"uuid": identity, **fields}
        return ref

    # Serving

    def __enter__(self) -> Self:
        self._server = Server(self.path, self._dispatch, self.lock)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.drop_connections()
        self._server.server_close()
        self.path.unlink()

    def drop_connections(self) -> None:
        """Close all connections, as XAPI does with idle ones."""
        assert self._server is not None
        self._server.drop_connections()

    # Calls

    def _dispatch(self, method: str, parameters: tuple[Any, ...]) -> dict[str, Any]:
        self.calls.append(method)
        try:
            return {"Status": "Success", "Value": self._answer(method, *parameters)}
        except Refusal as refusal:
            return {"Status": "Failure", "ErrorDescription": list(refusal.args)}

    def _answer(self, method: str, *parameters: Any) -> Any:
        if method == "session.login_with_password":
            self.logins += 1
            return self.new_session()
        session, *arguments = parameters
        if session not in self.sessions:
            raise Refusal("SESSION_INVALID", session)
        kind, _, verb = method.partition(".")
        if method == "session.logout":
            self.sessions.remove(session)
            return ""
        if kind in self.records:
            action = self._action(kind, verb)
            if action is not None:
                return action(*arguments)
        raise Refusal("MESSAGE_METHOD_UNKNOWN", method)

    def _action(self, kind: str, verb: str) -> Callable[..., Any] | None:
        specific = getattr(self, f"_{kind}_{verb}", None)
        if specific is not None:
            return specific  # type: ignore[no-any-return]
        table = self.records[kind]
        general: dict[str, Callable[..., Any]] = {
            "get_all": lambda: list(table),
            "get_all_records": lambda: table,
            "get_all_records_where": lambda text: self._where(kind, text),
            "get_by_uuid": lambda uuid: self._by_uuid(kind, uuid),
            "get_record": lambda ref: self._record(kind, ref),
        }
        if verb in general:
            return general[verb]
        for prefix, make in (
            ("get_", self._getter),
            ("set_", self._setter),
            ("add_to_", self._adder),
            ("remove_from_", self._remover),
        ):
            if verb.startswith(prefix):
                return make(kind, verb.removeprefix(prefix))
        return None

    def _record(self, kind: str, ref: str) -> dict[str, Any]:
        try:
            return self.records[kind][ref]
        except KeyError:
            raise Refusal("HANDLE_INVALID", kind, ref) from None

    def _by_uuid(self, kind: str, uuid: str) -> str:
        for ref, record in self.records[kind].items():
            if record["uuid"] == uuid:
                return ref
        raise Refusal("UUID_INVALID", kind, uuid)

    def _where(self, kind: str, text: str) -> dict[str, Any]:
        try:
            matches = expressions.parse(text)
            return {ref: r for ref, r in self.records[kind].items() if matches(r)}
        except (expressions.BadExpression, KeyError) as error:
            raise Refusal("INTERNAL_ERROR", f"bad expression {text!r}: {error}") from error

    def _getter(self, kind: str, field: str) -> Callable[..., Any]:
        def get(ref: str) -> Any:
            record = self._record(kind, ref)
            if field not in record:
                raise Refusal("MESSAGE_METHOD_UNKNOWN", f"{kind}.get_{field}")
            return record[field]

        return get

    def _setter(self, kind: str, field: str) -> Callable[..., Any] | None:
        def set_(ref: str, value: Any) -> str:
            record = self._record(kind, ref)
            if type(value) is not type(record[field]):
                raise Refusal("FIELD_TYPE_ERROR", f"{kind}.{field}")
            record[field] = value
            return ""

        return set_ if field in SETTABLE.get(kind, "").split() else None

    def _adder(self, kind: str, field: str) -> Callable[..., Any] | None:
        def add(ref: str, key: str, value: str) -> str:
            entries = self._record(kind, ref)[field]
            if key in entries:
                raise Refusal("MAP_DUPLICATE_KEY", kind, field, ref, key)
            entries[key] = value
            return ""

        return add if field in MAPS.get(kind, "").split() else None

    def _remover(self, kind: str, field: str) -> Callable[..., Any] | None:
        def remove(ref: str, key: str) -> str:
            self._record(kind, ref)[field].pop(key, None)
            return ""

        return remove if field in MAPS.get(kind, "").split() else None

    # Calls of one class

    def _host_call_plugin(
        self, host: str, plugin: str, function: str, arguments: dict[str, str]
    ) -> str:
        """Run the real executable, with what `plugins` says is the environment on that host."""
        self._record("host", host)
        if host not in self.plugins:
            raise Refusal("HOST_OFFLINE", host)
        executable = PLUGINS / plugin
        if not executable.exists():
            raise Refusal("XENAPI_MISSING_PLUGIN", plugin)
        session = self.new_session()
        self.lock.release()  # the plugin calls back
        try:
            ended = subprocess.run(
                [str(executable), xmlrpc.client.dumps((session, arguments), function)],
                env=self.plugins[host],
                capture_output=True,
                text=True,
                check=False,
                timeout=patient(100),
            )
        finally:
            self.lock.acquire()
            self.sessions.discard(session)
        if ended.returncode != 0:
            raise Refusal("XENAPI_PLUGIN_FAILURE", "non-zero exit", ended.stdout, ended.stderr)
        ((reply,), _) = xmlrpc.client.loads(ended.stdout)
        assert isinstance(reply, dict)
        if reply["Status"] == "Success":
            assert isinstance(reply["Value"], str)
            return reply["Value"]
        raise Refusal(*reply["ErrorDescription"])

    def _VDI_db_introduce(self, *parameters: Any) -> str:
        if len(parameters) != len(DB_INTRODUCE):
            raise Refusal("MESSAGE_PARAMETER_COUNT_MISMATCH", "VDI.db_introduce")
        fields = dict(zip(DB_INTRODUCE, parameters, strict=True))
        self._record("SR", fields["SR"])
        for name in ("virtual_size", "physical_utilisation"):
            if not isinstance(fields[name], str):
                raise Refusal("FIELD_TYPE_ERROR", name)
        if not isinstance(fields["snapshot_time"], DateTime):
            raise Refusal("FIELD_TYPE_ERROR", "snapshot_time")
        sr, uuid = fields.pop("SR"), fields.pop("uuid")
        return self.add_vdi(sr, uuid, **fields)

    def _VDI_db_forget(self, ref: str) -> str:
        self._record("VDI", ref)
        del self.records["VDI"][ref]
        return ""

    def _task_create(self, label: str, description: str) -> str:
        return self._add(
            "task",
            name_label=label,
            name_description=description,
            status="pending",
            progress=0.0,
            other_config={},
        )

    def _task_destroy(self, ref: str) -> str:
        self._record("task", ref)
        del self.records["task"][ref]
        return ""


def _new_ref() -> str:
    return f"OpaqueRef:{uuids.uuid4()}"


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("socket", type=Path)
    parser.add_argument("--host-uuid")
    parser.add_argument("--sr", action="append", default=[], metavar="UUID:TYPE:KEY=VALUE,...")
    options = parser.parse_args()
    xapi = XapiServer(options.socket)
    host = xapi.add_host(uuid=options.host_uuid)
    srs = {}
    for text in options.sr:
        uuid, sr_type, config = text.split(":", 2)
        srs[uuid] = xapi.add_sr(sr_type, uuid)
        pairs = (pair.split("=", 1) for pair in config.split(",") if pair)
        xapi.add_pbd(srs[uuid], host, dict(pairs))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with xapi:
        announcement = {
            "host_ref": host,
            "host_uuid": xapi.records["host"][host]["uuid"],
            "session_ref": xapi.new_session(),
            "srs": srs,
        }
        print(json.dumps(announcement), flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    _main()
