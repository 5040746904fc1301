"""``edgeface ros``: faces in the pictures of a ROS 2 topic."""

from __future__ import annotations

import click

from edgeface.cli.detector_options import detector_options
from edgeface.errors import OptionError
from edgeface.runtime.detector_options import DetectorOptions


@click.command(short_help="Find faces in the pictures of a ROS 2 topic.")
@click.argument("ros_arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- --ros-args ...]")
@click.option("--image", "topic", default="image", show_default=True, metavar="TOPIC", help="The pictures' topic.")
@click.option("--compressed/--raw", default=False,
              help="What the topic has: sensor_msgs/CompressedImage, or sensor_msgs/Image.  [default: raw]")
@detector_options()
@click.option("--track/--no-track", default=True, show_default=True, help="Number the faces and keep the numbers.")
def command(
    ros_arguments: tuple[str, ...],
    topic: str,
    compressed: bool,
    detector: DetectorOptions,
    track: bool,
) -> None:
    """Find faces in the pictures of a ROS 2 topic, until Ctrl-C.

    \b
    edgeface ros --image /camera/image_raw
    edgeface ros --image /camera/image_raw/compressed --compressed --size 320
    edgeface ros -- --ros-args -r image:=/camera/image_raw -r __ns:=/door

    The node 'edgeface' publishes ~/faces, vision_msgs/Detection2DArray, and ~/json, std_msgs/String: see
    docs/howto/ros.md. It needs ROS 2, which is not installed by pip, in the Python that runs edgeface.
    """
    if ros_arguments and ros_arguments[0] != "--ros-args":
        raise OptionError(f"{ros_arguments[0]!r} is nothing that ROS is told: begin with -- --ros-args")
    from edgeface.stream.ros.node import NodeOptions, Ros, run

    ros = Ros.installed()
    options = NodeOptions(topic, "compressed" if compressed else "raw", track, ros_arguments)
    run(ros, detector.open(), options)
