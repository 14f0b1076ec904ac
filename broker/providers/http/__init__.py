"""A lean HTTP/1.1 client for one origin: an `asyncio.Protocol` around llhttp (`httptools`), and a pool of connections.

    pool = Pool(Origin.of("https://host:8200"), tls=lambda: context)
    answer = await pool.request("PUT", "/v1/x", {"X-Vault-Token": token}, body)  # Answer(status, headers, body)
    answer.header("date")
    await pool.close()

One attempt: nothing is ever sent a second time, no redirect is followed, and neither proxies, netrc, cookies nor
compression are known. `Unsent`: no byte of the request has left (`Untrusted`, one of them: TLS failed). `Lost`: it may
have been sent, and no answer is known.
"""

from broker.providers.http.message import Answer, HttpError, Lost, Origin, Unsent, Untrusted
from broker.providers.http.pool import Pool

__all__ = ["Answer", "HttpError", "Lost", "Origin", "Pool", "Unsent", "Untrusted"]
