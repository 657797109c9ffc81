"""A Messages API for tests: real HTTP on 127.0.0.1, streaming and not, with scripted answers and a simulated cache.

`FakeMessages(script)` serves in a thread. A script is called with the body of a request and the number of the request
(from 0) and returns a `Reply`. `python -m tests.fake_messages --port N` serves a plausible researcher.
"""

from tests.fake_messages import replies
from tests.fake_messages.replies import Reply
from tests.fake_messages.researcher import researcher
from tests.fake_messages.server import FakeMessages, Script, Seen

__all__ = ["FakeMessages", "Reply", "Script", "Seen", "replies", "researcher"]
