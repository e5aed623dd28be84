"""Finds out whether a server can be reached, before a library tries for minutes."""

from __future__ import annotations


def out_of_reach(address: str, seconds: float) -> str | None:
    """Returns the reason why a server cannot be reached, or None if it answers, be it with an error.

    Args:
        address: Its URL; one short request is sent there.
        seconds: How long it may take to answer.
    """
    import ssl
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=seconds).close()
    except urllib.error.HTTPError:
        return None  # an error status is an answer too: the server is there
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        # A library has its own settings for trusted certificates, so it may connect where this request could not.
        return None if isinstance(reason, ssl.SSLError) else str(reason) or type(reason).__name__
    return None
