"""``edgeface ros``: faces in the pictures of a ROS 2 topic."""

from __future__ import annotations

import click

from edgeface.cli.cascade import cascade_options
from edgeface.cli.detect import MODEL_HELP, complete_model
from edgeface.errors import OptionError
from edgeface.weights import DEFAULT_MODEL, SHIPPED


@click.command(short_help="Find faces in the pictures of a ROS 2 topic.")
@click.argument("ros_arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- --ros-args ...]")
@click.option("--image", "topic", default="image", show_default=True, metavar="TOPIC", help="The pictures' topic.")
@click.option("--compressed/--raw", default=False,
              help="What the topic has: sensor_msgs/CompressedImage, or sensor_msgs/Image.  [default: raw]")
@click.option("--model", default=DEFAULT_MODEL, show_default=DEFAULT_MODEL.removeprefix(SHIPPED),
              shell_complete=complete_model, help=MODEL_HELP)
@click.option("--size", type=click.IntRange(min=1), metavar="PIXELS",
              help="The longest side that the network sees a picture at; smaller is faster and misses small faces.")
@click.option("--score", type=click.FloatRange(0, 1), help="The least score of a face.")
@click.option("--nms", type=click.FloatRange(0, 1), help="The largest overlap (IoU) of two faces.")
@click.option("--threads", type=click.IntRange(min=1),
              help="Threads of the network.  [default: all processors but one, at most 4, fewer beside other work]")
@click.option("--engine", help="The inference engine.  [default: the bundle's]")
@cascade_options
@click.option("--track/--no-track", default=True, show_default=True, help="Number the faces and keep the numbers.")
def command(
    ros_arguments: tuple[str, ...],
    topic: str,
    compressed: bool,
    model: str,
    size: int | None,
    score: float | None,
    nms: float | None,
    threads: int | None,
    engine: str | None,
    refine: str | None,
    min_face: float | None,
    thresholds: tuple[float, ...] | None,
    candidates: int | None,
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
    from edgeface.runtime.loading import load
    from edgeface.stream.ros.node import Options, Ros, run

    ros = Ros.installed()
    detector = load(
        model, engine=engine, threads=threads, size=size, score=score, nms=nms, refine=refine, min_face=min_face,
        thresholds=thresholds, candidates=candidates,
    )
    run(ros, detector, Options(topic, "compressed" if compressed else "raw", track, ros_arguments))
