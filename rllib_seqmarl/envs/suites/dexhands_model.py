"""MuJoCo scene of the door tasks: two Shadow Hands in front of a double door.

The hands' initial poses and actuation, the leaves' dimensions and masses, the handle positions and the springs follow
the Isaac Gym scene of Bi-DexHands (Chen et al. 2022, arXiv 2206.08686). The hand model is the Shadow Hand from
gymnasium-robotics. As in Bi-DexHands, both are right hands: the left one is turned over, thumb down, so that the palms
face each other.

World frame: z is up, and the hands reach along -x to a door in the plane x = 0, the right one at y > 0.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

HANDS = ("right", "left")
FINGERS = {"index": "ff", "middle": "mf", "ring": "rf", "little": "lf", "thumb": "th"}  # values: the asset's names
N_JOINTS = 24  # of a hand: 2 in the wrist, 4 each in three fingers, 5 in the little finger and the thumb
N_ACTIONS = 26  # of a hand: force (3) and torque (3) on its base, target angles of the 20 actuated joints

CONTROL_HZ = 60
SUBSTEPS = 4
# Force and torque of a control of 1 on a hand's base [N, N m], and its drag [1/s]. The base then moves at 1.7 m/s and
# turns at 1.5 to 4 rad/s, and reaches these speeds within two control steps.
BASE_FORCE = 833.3
BASE_TORQUE = 8.333
BASE_DRAG = 100.0

HAND_START = {"right": (0.55, 0.2, 0.6), "left": (0.55, -0.2, 0.6)}  # proximal end of the forearm [m]
# Columns: world directions of a hand's thumb side (x), back (y) and fingers (z).
HAND_ROTATION = {
    "right": np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]], float),
    "left": np.array([[0, 0, -1], [0, -1, 0], [-1, 0, 0]], float),
}
HAND_CENTRE = 0.31  # distance of the centre of mass from the proximal end of the forearm [m]

DOOR_HEIGHT = 0.7  # height of the door's centre above the floor [m]
HINGE = 0.4235  # distance from the door's centre [m]
LEAF = (0.0088, 0.2185, 0.4625)  # half thickness, half width, half height [m]
LEAF_RISE = 0.0185  # height of the leaf's centre above the door's centre [m]
DOOR_DENSITY = 500.0  # [kg/m^3], for a mass of 3.6 kg per leaf
HANDLE = (0.075, 0.375, (-0.18, 0.095), 0.0125)  # bar: off the leaf, off the hinge, lower and upper end, radius [m]
GRIP = (0.04, 0.39, -0.0167)  # grip point between bar and leaf: off the leaf, off the hinge, up [m]
FULLY_OPEN = np.pi / 2
HINGE_STIFFNESS = 5.0  # of the spring that returns a leaf to its initial position [N m / rad]
HINGE_DAMPING = 1.0  # [N m s / rad]


def build_model(*, starts_open: bool) -> Any:
    """Build and compile the `mujoco.MjModel`.

    Degrees of freedom, in order: for each hand, right before left, its base (free joint: position 3, quaternion 4) and
    its 24 joints; then the hinges of the right and the left leaf, which are 0 when shut. Controls: 26 per hand, those
    of the base in -1..1, then target angles. Sites: `{hand}_{finger}_tip` on each hand, `{hand}_handle` on each leaf.

    Args:
        starts_open: Whether the leaves start open, away from the hands, or shut, to be opened towards the hands.
    """
    import mujoco

    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.option.timestep = 1 / (CONTROL_HZ * SUBSTEPS)
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.gravity = (0, 0, 0)  # hands and leaves are weightless in the published scene
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    for hand in HANDS:
        _add_hand(spec, hand)
    _add_door(spec, starts_open)
    _add_light_and_camera(spec)
    model = spec.compile()
    _add_drag(model)
    return model


def _add_hand(spec: Any, hand: str) -> None:
    """Add a free hand with its 26 actuators and the sites for observations and rewards."""
    import mujoco

    package = find_spec("gymnasium_robotics")  # only its files are needed, and importing it takes a second
    assert package is not None and package.submodule_search_locations
    assets = Path(package.submodule_search_locations[0]) / "envs" / "assets"
    asset = mujoco.MjSpec.from_file(str(assets / "hand" / "reach.xml"))
    asset.meshdir = str(assets / "stls" / "hand")
    for size in ("njmax", "nconmax", *(f"nuser_{of}" for of in ("jnt", "site", "tendon", "sensor", "actuator"))):
        setattr(asset, size, getattr(spec, size))  # attaching warns if they differ
    for setting in ("timestep", "iterations"):
        setattr(asset.option, setting, getattr(spec.option, setting))
    for texture in asset.textures:
        if texture.type == mujoco.mjtTexture.mjTEXTURE_SKYBOX:
            texture.rgb1, texture.rgb2 = (0.75, 0.82, 0.9), (1, 1, 1)
    prefix = f"{hand}_"
    rotation = HAND_ROTATION[hand]
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, rotation.ravel())
    base = spec.worldbody.add_body(
        name=f"{prefix}base",
        pos=HAND_START[hand] + HAND_CENTRE * rotation[:, 2],
        quat=quaternion,
        mass=0.1,  # as the asset's mount, which this body replaces
        inertia=(1e-3, 1e-3, 1e-3),
        explicitinertial=True,
    )
    base.add_freejoint(name=f"{prefix}base")
    for index in range(6):
        gear = np.zeros(6)
        gear[index] = BASE_FORCE if index < 3 else BASE_TORQUE
        spec.add_actuator(
            name=f"{prefix}base_{index}",
            trntype=mujoco.mjtTrn.mjTRN_JOINTINPARENT,  # along and about the axes of the world
            target=f"{prefix}base",
            gear=gear,
            ctrllimited=True,
            ctrlrange=(-1, 1),
        )
    arm_end = base.add_frame(pos=(0, 0, -HAND_CENTRE))
    arm_end.attach_body(asset.body("robot0:forearm"), prefix, "")

    robot = f"{prefix}robot0:"
    for finger, short in FINGERS.items():
        spec.body(f"{robot}{short}distal").add_site(name=f"{prefix}{finger}_tip", pos=(0, 0, 0.02), group=4)
    # A geom collides with geoms whose `conaffinity` shares a bit with its `contype`: here those of the other hand and
    # the door. Collisions within a hand are listed explicitly by the asset.
    own, other = (1, 2) if hand == "right" else (2, 1)
    for geom in spec.geoms:
        if geom.name.startswith(f"{robot}C_"):
            geom.contype, geom.conaffinity = own, other


def _add_door(spec: Any, starts_open: bool) -> None:
    """Add a double door whose leaves open to its -x side. If it starts shut, that side is turned to the hands."""
    import mujoco

    box, capsule = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CAPSULE
    # The friction is the mean of the hands', 1, and the published door's, 0.1. The time constant of contacts is half
    # the default, since bases push with 833 N.
    solid = {"contype": 0, "conaffinity": 3, "density": DOOR_DENSITY, "friction": (0.55, 0.005, 0.0001)}
    solid |= {"priority": 1, "solref": (0.01, 1)}
    hands_side = 1 if starts_open else -1
    door = spec.worldbody.add_body(
        name="door", pos=(0, 0, DOOR_HEIGHT), quat=(1, 0, 0, 0) if starts_open else (0, 0, 1, 0)
    )
    for name, sign in (("threshold", -1), ("lintel", 1)):
        height = LEAF_RISE + sign * (LEAF[2] + 0.0025)
        door.add_geom(
            name=name, type=box, size=(0.024, 0.88, 0.0025), pos=(0, 0, height), rgba=(0.35, 0.25, 0.18, 1), **solid
        )
    for hand, side in zip(HANDS, (1, -1), strict=True):
        inwards = -side  # from the hinge to the middle of the door, along y
        leaf = door.add_body(name=f"{hand}_leaf", pos=(0, side * HINGE, 0))
        leaf.add_joint(
            name=f"{hand}_hinge",
            type=mujoco.mjtJoint.mjJNT_HINGE,
            axis=(0, 0, inwards),
            limited=True,
            range=(0, FULLY_OPEN),
            stiffness=HINGE_STIFFNESS,
            springref=FULLY_OPEN if starts_open else 0,
            damping=HINGE_DAMPING,
        )
        leaf.add_geom(
            name=f"{hand}_leaf",
            type=box,
            size=LEAF,
            pos=(0, inwards * (HINGE - 0.004 - LEAF[1]), LEAF_RISE),
            rgba=(0.6, 0.72, 0.98, 0.55),
            **solid,
        )
        off, along, ends, radius = HANDLE
        for face in (1, -1):
            corners = [np.array((face * off, inwards * along, end)) for end in ends]
            foot = np.array((0, 1, 1))  # projects a corner onto the leaf
            for part, (start, end) in enumerate(
                ((corners[0] * foot, corners[0]), corners, (corners[1] * foot, corners[1]))
            ):
                leaf.add_geom(
                    name=f"{hand}_handle_{'front' if face == hands_side else 'rear'}_{part}",
                    type=capsule,
                    size=(radius, 0, 0),
                    fromto=(*start, *end),
                    rgba=(0.85, 0.65, 0.2, 1),
                    **solid,
                )
        leaf.add_site(name=f"{hand}_handle", pos=(hands_side * GRIP[0], inwards * GRIP[1], GRIP[2]), group=4)


def _add_light_and_camera(spec: Any) -> None:
    import mujoco

    spec.visual.global_.offwidth, spec.visual.global_.offheight = 640, 480
    spec.visual.headlight.ambient = (0.4, 0.4, 0.4)
    spec.visual.headlight.diffuse = (0.2, 0.2, 0.2)
    spec.worldbody.add_light(pos=(1.5, 0.5, 3), dir=(-0.4, -0.1, -1), diffuse=(0.5, 0.5, 0.5), castshadow=True)
    spec.worldbody.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=(2, 2, 0.1),
        contype=0,
        conaffinity=0,
        rgba=(0.8, 0.8, 0.8, 1),
    )
    eye, target = np.array((1.5, 0.85, 1.35)), np.array((0.1, 0.0, 0.68))
    back = (eye - target) / np.linalg.norm(eye - target)
    right = np.cross((0, 0, 1), back)
    right /= np.linalg.norm(right)
    spec.worldbody.add_camera(name="view", pos=eye, xyaxes=(*right, *np.cross(back, right)), fovy=42)


def _add_drag(model: Any) -> None:
    """Damp the hands' bases in proportion to their mass and inertia, as in the published scene."""
    import mujoco

    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    for hand in HANDS:
        first = model.joint(f"{hand}_base").dofadr[0]
        for dof in range(first, first + 6):
            speed, momentum = np.eye(1, model.nv, dof)[0], np.zeros(model.nv)
            mujoco.mj_mulM(model, data, momentum, speed)
            model.dof_damping[dof] = BASE_DRAG * momentum[dof]
