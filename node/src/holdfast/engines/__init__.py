# SPDX-License-Identifier: Apache-2.0
"""Secret engines. They see plaintext below their mount through a `View` and know neither tokens nor HTTP."""
