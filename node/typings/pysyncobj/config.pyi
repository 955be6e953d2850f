from typing import Any

class SyncObjConf:
    def __init__(self, **settings: Any) -> None: ...
