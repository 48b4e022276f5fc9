"""A SQL endpoint over a lake: Spark's Thrift server, which JDBC, ODBC and HiveServer2 clients speak to."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motorpool.config.run import LakeConfig
from motorpool.errors import ConfigError, MotorpoolError
from motorpool.lake import Lake
from motorpool.lake.schemas import TABLES

log = logging.getLogger(__name__)

#: Where the tables of a lake under a path are found: what clients see when they name no schema.
SCHEMA = "default"

_SERVER = "org.apache.spark.sql.hive.thriftserver.HiveThriftServer2"
_STARTED = "STARTED"


@dataclass(frozen=True)
class Address:
    """Where clients connect, and the schema that they find the tables in."""

    host: str
    port: int
    schema: str = SCHEMA

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"jdbc:hive2://{host}:{self.port}/{self.schema}"


def check_address(host: str, port: int) -> None:
    """ConfigError unless a server could listen there now; a warning where other machines could reach it."""
    with bound(host, port) as probe:
        exposed = not is_loopback(probe)
    if exposed:
        log.warning(
            "serve: --host %s lets other machines in, and nobody is asked for a password: whoever reaches port %d can "
            "read, change and run what this account can",
            host,
            port,
        )


def bound(host: str, port: int) -> socket.socket:
    """A socket bound to a host and port, 0 for any that is free; ConfigError where nothing can listen there."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as exc:
        raise ConfigError(f"--host {host}: is no host that this machine knows ({exc.strerror})") from exc
    family, kind, _, _, address = found[0]
    made = socket.socket(family, kind)
    # As servers do: a port that was left a moment ago is free.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
    except OSError as exc:
        made.close()
        raise ConfigError(_refusal(host, port, exc)) from exc
    return made


def is_loopback(made: socket.socket) -> bool:
    """Whether only programs of this machine can reach a socket."""
    return ipaddress.ip_address(str(made.getsockname()[0])).is_loopback


def _refusal(host: str, port: int, exc: OSError) -> str:
    if exc.errno == errno.EADDRINUSE:
        return f"--port {port}: is in use on {host}: choose another with --port, or stop what listens there"
    if exc.errno == errno.EADDRNOTAVAIL:
        return f"--host {host}: is no address of this machine; 127.0.0.1 is for this machine alone, 0.0.0.0 for all"
    return f"--host {host} --port {port}: cannot be listened on: {exc.strerror}"


def session_settings(scratch: Path) -> dict[str, str]:
    """What the session must be started with; what clients create without naming a place goes below ``scratch``."""
    return {
        # A session made for a client would look for Delta's catalog where the jars that Spark fetched are not seen.
        "spark.sql.hive.thriftServer.singleSession": "true",
        # Rows are sent as clients fetch them: the driver holds one partition of a result, not all of it.
        "spark.sql.thriftServer.incrementalCollect": "true",
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        # Parquet lakes: folders tell the partitions, whose values are names even where they look like numbers.
        "spark.sql.hive.manageFilesourcePartitions": "false",
        "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
    }


def publish(lake: Lake) -> list[str]:
    """Make the tables and views known to the clients; returns their names.

    The tables of a lake under a path are entered in the schema `default` of Spark's catalog, which is kept in memory
    where no other is configured: unlike temporary views, clients can list them and name an earlier version of them. An
    entry is a name and a location: to drop it leaves the files alone.
    """
    if lake.in_catalog:
        return lake.register()
    present = [name for name in TABLES if lake.exists(name)]
    for name in present:
        # A catalog would take a relative path from its warehouse's folder.
        lake.spark.catalog.createTable(f"{SCHEMA}.{name}", path=f"{lake.root}/{name}", source=lake.config.format)
    return present + Lake(lake.spark, LakeConfig.model_validate({"schema": SCHEMA})).make_views()


@dataclass(frozen=True)
class Server:
    """A server that listens."""

    address: Address
    tables: list[str]
    _server: Any

    def wait(self, ended: threading.Event) -> None:
        """Return when ``ended`` is set; MotorpoolError where the server is gone before."""
        while not ended.wait(0.5):
            if str(self._server.getServiceState().toString()) != _STARTED:
                break
        else:
            return
        raise MotorpoolError(f"the SQL server on {self.address.url} has stopped by itself; --debug shows Spark's log")


@contextmanager
def serving(lake: Lake, host: str, port: int, scratch: Path) -> Iterator[Server]:
    """Answer SQL over the lake while the context lasts; the session, made with ``session_settings``, ends with it.

    Clients share the session: its settings, its current schema, its temporary views. There is no authentication, and
    clients can write. Working files go below ``scratch``.
    """
    spark = lake.spark
    tables = publish(lake)
    schema = str(lake.config.schema_name) if lake.in_catalog else SCHEMA
    for key, value in _hive_settings(host, port, scratch).items():
        spark.conf.set(key, value)
    jvm: Any = spark._jvm
    # Hive keeps a database in memory, whose log would lie in the folder that the user happens to be in.
    jvm.java.lang.System.setProperty("derby.stream.error.file", os.devnull)
    entry: Any = jvm
    for part in _SERVER.split("."):
        entry = getattr(entry, part)
    try:
        server = entry.startWithContext(spark._jsparkSession.sqlContext())
        try:
            yield Server(Address(host, port, schema), tables, server)
        finally:
            server.stop()
    finally:
        spark.stop()


def _hive_settings(host: str, port: int, scratch: Path) -> dict[str, str]:
    return {
        "hive.server2.transport.mode": "binary",
        "hive.server2.thrift.bind.host": host,
        "hive.server2.thrift.port": str(port),
        # Queries run as the account that started the server, whatever name a client gives.
        "hive.server2.enable.doAs": "false",
        "hive.server2.logging.operation.log.location": str(scratch / "operations"),
        "hive.exec.scratchdir": str(scratch / "hive"),
        "hive.exec.local.scratchdir": str(scratch / "hive-local"),
        "hive.downloaded.resources.dir": str(scratch / "resources"),
        "hive.querylog.location": str(scratch / "queries"),
    }
