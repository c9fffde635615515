"""The network half: everything that touches Consul, DNS or third-party code.

Runs only in processes forked from init (`prepare`, `presence`), never in init itself; nothing outside this
package may import it at module level, and a test asserts that.
"""

import warnings

from svcinit.agent import imports

imports.use_file()
imports.defer_unused()
# what requests says where there is none, as in /opt/svcinit: of what Consul answers no encoding is ever guessed
warnings.filterwarnings("ignore", "Unable to find acceptable character detection")
