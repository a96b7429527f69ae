"""SplitCom (2602.10564): an activation is sent again only when it differs noticeably from what the server holds.

The codecs of the flows are the configuration's own; `temporal(threshold)` is the paper's gate.
"""

from splitcom.methods.method import Method

SPLITCOM = Method("splitcom", "split, flows coded as configured", lambda config: config)
