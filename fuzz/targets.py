"""All targets, by name."""

from __future__ import annotations

from typing import Final

from fuzz.admin_targets import ADMIN_TARGETS
from fuzz.http_targets import HTTP_TARGETS
from fuzz.media_targets import MEDIA_TARGETS
from fuzz.proxy_targets import PROXY_TARGETS
from fuzz.rtsp_targets import RTSP_TARGETS
from fuzz.service_targets import SERVICE_TARGETS

TARGETS: Final = {
    target.name: target
    for target in (
        *HTTP_TARGETS,
        *RTSP_TARGETS,
        *MEDIA_TARGETS,
        *PROXY_TARGETS,
        *SERVICE_TARGETS,
        *ADMIN_TARGETS,
    )
}
