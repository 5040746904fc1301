"""An RTSP server of blue pictures by gst-rtsp-server, in a process of the system's Python, which has GStreamer's names.

    /usr/bin/python3 gst_rtsp_server.py PORT LOSS [USER PASSWORD]

It serves rtsp://127.0.0.1:PORT/live, of which ``LOSS`` is the share of packets that get lost, and prints "ready".
"""

from __future__ import annotations

import sys
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402  (gi wants to know the versions first)

# FFmpeg's decoder of JPEG by RTP knows 4:2:0 alone. The server takes packets from whatever is called pay0.
PIPELINE = (
    "( videotestsrc is-live=true pattern=blue ! video/x-raw,format=I420,width=320,height=240,framerate=15/1 ! jpegenc "
    "! rtpjpegpay mtu=600 pt=26 ! identity name=pay0 drop-probability={loss} )"
)


def main(port: str, loss: str, user: str = "", password: str = "") -> None:
    Gst.init(None)
    server = GstRtspServer.RTSPServer(address="127.0.0.1", service=port)
    factory = GstRtspServer.RTSPMediaFactory(shared=True)
    factory.set_launch(PIPELINE.format(loss=loss))
    if user:
        _ask_for_password(server, factory, user, password)
    server.get_mount_points().add_factory("/live", factory)
    if not server.attach(None):
        sys.exit("nobody can listen there")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    GLib.MainLoop().run()


def _ask_for_password(server: Any, factory: Any, user: str, password: str) -> None:
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    role = "viewer,media.factory.access=(boolean)true,media.factory.construct=(boolean)true"
    factory.add_role_from_structure(Gst.Structure.from_string(role)[0])


main(*sys.argv[1:])
