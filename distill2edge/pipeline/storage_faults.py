"""What an object storage answers when it cannot do what it was asked, in words that name the fix.

Errors are told by names and codes: the libraries that raise them are imported by who talks to a server alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.util.files import disk_full, disk_is_full

_QUERY = re.compile(r"(?<=\S)\?[\w%.~-]+=[^\s\"']*")
"""Of a request's address: nobody reads it, and it may hold a signature."""
_MAY = "they have to be allowed to list, read, write and delete there"
_KEYS = f"check the credentials (AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY): {_MAY}"
_AGAIN = "run the same command again: what is finished on this machine is kept"
_REFUSED = {
    "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AllAccessDisabled",
    "Forbidden", "403", "401", "PermissionError",
}  # fmt: skip
_NONE_GIVEN = {
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "NoAuthTokenError", "CredentialRetrievalError",
    "TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError", "DefaultCredentialsError",
}  # fmt: skip
_OUT_OF_REACH = {
    "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "ConnectionError",
    "HTTPClientError", "SSLError", "ProxyConnectionError", "ClientConnectorError", "FSTimeoutError",
    "TimeoutError", "ServerDisconnectedError", "ClientConnectorDNSError",
}  # fmt: skip
_NOT_AN_ADDRESS = {"InvalidEndpoint", "ParamValidationError", "InvalidBucketName", "EndpointProviderError"}


def already_there(error: BaseException) -> bool:
    """Whether a creation was refused since the object is there."""
    return isinstance(error, FileExistsError) or bool({"PreconditionFailed", "412"} & set(_codes(error)))


def in_conflict(error: BaseException) -> bool:
    """Whether another creation of the same object was under way: to be tried again."""
    return bool({"ConditionalRequestConflict", "OperationAborted", "409"} & set(_codes(error)))


def fault_of_storage(error: BaseException, url: str) -> UserError:
    """The error of a storage as the user should read it."""
    if isinstance(error, UserError):
        return error
    if disk_full(error):
        return disk_is_full()
    codes, said = set(_codes(error)), _QUERY.sub("", " ".join(str(error).split()))[:300]
    if codes & _NONE_GIVEN:
        return EnvironmentFault(f"no credentials for it: {said}", where=url, fix=_KEYS)
    if "RequestTimeTooSkewed" in codes:
        what = f"the clock of this machine differs from the server's: {said}"
        return EnvironmentFault(what, where=url, fix="set this machine's clock (NTP)")
    if "NoSuchBucket" in codes:
        return EnvironmentFault("there is no such bucket", where=url, fix="create it, or name another with --store")
    if codes & _REFUSED:
        return EnvironmentFault(f"the server refuses: {said}", where=url, fix=_KEYS)
    if codes & _NOT_AN_ADDRESS or isinstance(error, ValueError):
        fix = "check the bucket's name, AWS_ENDPOINT_URL and the region (AWS_DEFAULT_REGION)"
        return EnvironmentFault(f"not an address that can be asked: {said}", where=url, fix=fix)
    if codes & _OUT_OF_REACH:
        fix = f"check the network, and AWS_ENDPOINT_URL for a server of your own; then {_AGAIN}"
        return EnvironmentFault(f"the server cannot be reached: {said}", where=url, fix=fix)
    return EnvironmentFault(f"the server has failed: {type(error).__name__}: {said}", where=url, fix=_AGAIN)


def _codes(error: BaseException) -> Iterator[str]:
    """The codes of the servers' answers, and the names of the classes, of an error and what it came from."""
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            return
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            yield str(response.get("Error", {}).get("Code", ""))
        if (status := getattr(seen, "code", None)) is not None:
            yield str(status)
        yield from (kind.__name__ for kind in type(seen).__mro__)
        seen = seen.__cause__ or seen.__context__
