"""``--webhook URL``: every event as a POST request with JSON."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from edgeface.addresses import can_be_host, redacted
from edgeface.errors import OptionError
from edgeface.stream.notify.queued_outlet import DeliveryError

TOKEN_VARIABLE = "EDGEFACE_WEBHOOK_TOKEN"
_CONNECT_S, _ANSWER_S = 3.0, 5.0


class Webhook:
    """Posts to an http or https address; redirects are not followed, and an answer of 200 to 299 is success.

    What EDGEFACE_WEBHOOK_TOKEN holds is sent as a bearer token. Raises OptionError for another address.
    """

    def __init__(self, address: str) -> None:
        self.name = f"webhook {redacted(address)}"
        try:
            parts = urlsplit(address)
            is_one = parts.scheme in ("http", "https") and can_be_host(parts.hostname)
            _ = parts.port
        except ValueError:
            is_one = False
        if not is_one:
            raise OptionError(f"--webhook {redacted(address)}: write http://HOST[:PORT]/PATH or https://...")
        import requests

        self._address = address
        self._session = requests.Session()
        token = os.environ.get(TOKEN_VARIABLE)
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"
        self._session.headers.update({"Content-Type": "application/json", "User-Agent": "edgeface"})

    def send(self, content: bytes) -> None:
        """Raises DeliveryError where it does not answer in time, or refuses."""
        import requests

        try:
            with self._session.post(
                self._address, data=content, timeout=(_CONNECT_S, _ANSWER_S), allow_redirects=False, stream=True
            ) as answer:
                status = answer.status_code
        except requests.Timeout:
            raise DeliveryError("does not answer in time") from None
        except (requests.RequestException, OSError, ValueError) as error:
            # The texts of requests hold the whole address, which may have a secret in it.
            raise DeliveryError(f"not reachable ({type(error).__name__})") from None
        if not 200 <= status < 300:
            raise DeliveryError(f"answers {status}")

    def abandon(self) -> None:
        """A request that hangs ends with its time."""
