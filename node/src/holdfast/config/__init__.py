# SPDX-License-Identifier: Apache-2.0
"""Configuration: files and environment to one frozen dataclass tree."""

from holdfast.config.errors import ConfigError
from holdfast.config.load import load_config
from holdfast.config.tree import Config, InmemConfig, Listener, RaftConfig, RetryJoin

__all__ = ["Config", "ConfigError", "InmemConfig", "Listener", "RaftConfig", "RetryJoin", "load_config"]
