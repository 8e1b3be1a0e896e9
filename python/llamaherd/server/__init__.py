"""An OpenAI-compatible server over one or several models."""

from llamaherd.server.app import create_app
from llamaherd.server.pool import ModelPool, ModelSpec
from llamaherd.server.settings import ServerSettings

__all__ = ["ModelPool", "ModelSpec", "ServerSettings", "create_app"]
