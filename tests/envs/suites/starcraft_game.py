"""A stand-in for the StarCraft II binary, for tests with the real smac and smacv2.

It implements the game's protocol over a websocket and a minimal 32 x 32 battlefield: units move and attack as
commanded, and enemies attack at random. The environment variable `BATTLE` holds options as JSON; see `Battle`.
"""

import base64
import hashlib
import json
import os
import random
import socket
import struct
import sys
from pathlib import Path

from s2clientprotocol import data_pb2, debug_pb2, raw_pb2
from s2clientprotocol import sc2api_pb2 as sc_pb

RL_UNITS = 2000  # first type id of the maps' custom units
NAMES = ("baneling", "colossus", "hydralisk", "marauder", "marine", "medivac", "stalker", "zealot", "zergling")
# Units of the classic maps: types of the allies, relative to RL_UNITS, and of the enemies.
MAPS = {
    "3m": ([0, 0, 0], [48, 48, 48]),
    "2s3z": ([0, 0, 1, 1, 1], [74, 74, 73, 73, 73]),
    "MMM": ([0, 0, *[1] * 7, 2], [51, 51, *[48] * 7, 54]),
}
SHIELDS = {73: 50, 74: 80, 4: 150}


class Battle:
    """A game.

    Options: `ally_damage` and `enemy_damage` of an attack, multiplied by a random factor around 1; `enemies_leave_at`:
    the environment step at which all enemies vanish; `crash_at`: the number of the "step" or "observe" request at which
    the game exits, unless the file `crash_marker` exists; `log`: a file to which each game appends a line.
    """

    def __init__(self, create: sc_pb.RequestCreateGame):
        self.options = json.loads(os.environ.get("BATTLE", "{}"))
        self.map_name = Path(create.local_map.map_path).stem
        self.random = random.Random(create.random_seed if create.HasField("random_seed") else None)
        self.units: dict[int, raw_pb2.Unit] = {}
        self.tags = iter(range(1, 10**9))
        self.loop, self.counts = 0, {"step": 0, "observe": 0}
        self.spawn()

    def spawn(self) -> None:
        """Create the initial units, as the trigger of the classic maps does when there are none."""
        allies, enemies = MAPS.get(self.map_name, ([], []))
        for i, kind in enumerate(allies):
            self.create(RL_UNITS + kind, 1, 12, 8 + 2 * i, SHIELDS.get(enemies[0], 0))
        for i, kind in enumerate(enemies):
            self.create(kind, 2, 16, 8 + 2 * i, SHIELDS.get(kind, 0))

    def create(self, kind: int, owner: int, x: float, y: float, shield: float) -> None:
        tag = next(self.tags)
        unit = raw_pb2.Unit(tag=tag, unit_type=kind, owner=owner, health=45, health_max=45, radius=0.5, alliance=owner)
        unit.shield = unit.shield_max = shield
        unit.pos.x, unit.pos.y = min(max(x + self.random.uniform(0, 0.1), 0), 31.9), min(max(y, 0), 31.9)
        self.units[tag] = unit

    def act(self, request: sc_pb.RequestAction) -> None:
        for action in request.actions:
            command = action.action_raw.unit_command
            unit = self.units.get(command.unit_tags[0])
            if unit is None:
                continue
            if command.HasField("target_world_space_pos"):
                unit.pos.x = min(max(command.target_world_space_pos.x, 0), 31.9)
                unit.pos.y = min(max(command.target_world_space_pos.y, 0), 31.9)
            elif command.ability_id == 23:
                self.attack(self.units.get(command.target_unit_tag), self.options.get("ally_damage", 6))

    def attack(self, unit: raw_pb2.Unit | None, damage: float) -> None:
        if unit is not None:
            unit.health -= damage * self.random.uniform(0.9, 1.1)
            if unit.health <= 0:
                del self.units[unit.tag]

    def step(self, count: int) -> None:
        self.loop += count
        if not self.units:
            self.spawn()
        elif count >= 8:  # an environment step, not a wait for new units
            for enemy in [unit for unit in self.units.values() if unit.owner == 2]:
                allies = [unit for unit in self.units.values() if unit.owner == 1]
                if allies and enemy.tag in self.units:
                    self.attack(self.random.choice(allies), self.options.get("enemy_damage", 3))
            if self.options.get("enemies_leave_at") == self.counts["step"]:
                self.units = {tag: unit for tag, unit in self.units.items() if unit.owner == 1}

    def debug(self, request: sc_pb.RequestDebug) -> None:
        for command in request.debug:
            for tag in command.kill_unit.tag:
                self.units.pop(tag, None)
            if command.HasField("create_unit"):
                new = command.create_unit
                kind = new.unit_type
                name = NAMES[kind - RL_UNITS] if kind >= RL_UNITS else ""
                shield = {"zealot": 50, "stalker": 80, "colossus": 150}.get(name, SHIELDS.get(kind, 0))
                self.create(kind, new.owner, new.pos.x, new.pos.y, shield)

    def crashes(self, when: str) -> bool:
        self.counts[when] += 1
        marker = self.options.get("crash_marker")
        at = self.options.get("crash_at", {}).get(when)
        if at != self.counts[when] or marker is None or os.path.exists(marker):
            return False
        Path(marker).touch()
        return True

    def answer(self, request: sc_pb.Request, response: sc_pb.Response) -> None:
        kind = request.WhichOneof("request")
        getattr(response, kind).SetInParent()
        if kind == "game_info":
            start = response.game_info.start_raw
            start.map_size.x = start.map_size.y = 32
            start.playable_area.p1.x = start.playable_area.p1.y = 32
            start.pathing_grid.bits_per_pixel, start.pathing_grid.data = 1, b"\xff" * 128
            start.terrain_height.bits_per_pixel, start.terrain_height.data = 8, b"\x7f" * 1024
        elif kind == "data":
            for i in range(RL_UNITS + len(NAMES)):
                response.data.units.append(data_pb2.UnitTypeData(unit_id=i, name=f"unit {i}"))
        elif kind == "observation":
            if self.crashes("observe"):
                os._exit(1)
            response.observation.observation.game_loop = self.loop
            response.observation.observation.raw_data.units.extend(self.units.values())
        elif kind == "action":
            self.act(request.action)
        elif kind == "step":
            if request.step.count >= 8 and self.crashes("step"):
                os._exit(1)
            self.step(request.step.count)
        elif kind == "debug":
            self.debug(request.debug)


def serve(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as server:
        connection, _ = server.accept()
    stream = connection.makefile("rb")
    headers = {}
    while line := stream.readline().strip():
        name, _, value = line.decode().partition(": ")
        headers[name.lower()] = value
    key = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    connection.sendall(
        f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
    )
    battle = None
    while message := receive(stream):
        request = sc_pb.Request.FromString(message)
        kind = request.WhichOneof("request")
        if kind == "quit":
            return
        response = sc_pb.Response(id=request.id, status=sc_pb.in_game if battle else sc_pb.launched)
        if kind == "create_game":
            battle = Battle(request.create_game)
            write_log(battle.options, f"seed {request.create_game.random_seed} map {battle.map_name}")
            response.create_game.SetInParent()
            response.status = sc_pb.init_game
        elif battle is None:
            getattr(response, str(kind)).SetInParent()
        else:
            battle.answer(request, response)
        send(connection, response.SerializeToString())


def write_log(options: dict, line: str) -> None:
    if "log" in options:
        with open(options["log"], "a") as log:
            log.write(line + "\n")


def receive(stream) -> bytes:  # noqa: ANN001
    """Receive one message from a websocket client; empty if it has disconnected."""
    message, is_last = b"", False
    while not is_last:
        head = stream.read(2)
        if len(head) < 2 or head[0] & 15 == 8:
            return b""
        is_last, size = bool(head[0] & 128), head[1] & 127
        if size >= 126:
            size = struct.unpack(">H" if size == 126 else ">Q", stream.read(2 if size == 126 else 8))[0]
        mask = stream.read(4)
        message += bytes(byte ^ mask[i % 4] for i, byte in enumerate(stream.read(size)))
    return message


def send(connection: socket.socket, message: bytes) -> None:
    size = len(message)
    head = bytes([130, size]) if size < 126 else bytes([130, 126]) + struct.pack(">H", size)
    connection.sendall((head if size < 2**16 else bytes([130, 127]) + struct.pack(">Q", size)) + message)


if __name__ == "__main__":
    assert debug_pb2  # registers the debug commands with protobuf
    serve(int(sys.argv[sys.argv.index("-port") + 1]))
