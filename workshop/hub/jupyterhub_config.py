"""JupyterHub for a room on one machine: each learner a Unix account, one course for all.

    sudo SIZING_HUB_STATE=/srv/sizing-hub /opt/sizing/bin/jupyterhub -f jupyterhub_config.py

Settings, all from the environment; the defaults listen on this machine alone:

    SIZING_HUB_ADDRESS   where the room connects, by default http://127.0.0.1:8000
    SIZING_HUB_STATE     folder of the hub's database and cookie secret
    SIZING_HUB_PYTHON    the Python with the course's packages, by default the hub's own
    SIZING_HUB_MEMORY    bytes that one process of a learner can have, by default 4e9
    SIZING_HUB_THREADS   threads that one process computes with, by default 1
    SIZING_HUB_QUEUE     folder in which learners' experiments take turns (sizing.measuring.turns)
    SIZING_HUB_CLASS     folder in which guesses are pooled without names (sizing.course.classroom)
    SIZING_RECORDED      1 (default here): recordings are shown; 0: every learner measures
"""

import os
import pwd
import resource
import sys
from pathlib import Path

from jupyterhub.spawner import LocalProcessSpawner

STATE = Path(os.environ.get("SIZING_HUB_STATE", "/srv/sizing-hub"))
PYTHON = os.environ.get("SIZING_HUB_PYTHON", sys.executable)
MEMORY = int(float(os.environ.get("SIZING_HUB_MEMORY", 4e9)))
THREADS = os.environ.get("SIZING_HUB_THREADS", "1")
PROCESSES = 256  # of one learner: a notebook's kernel and two ranks of an experiment need some 60


class LimitedSpawner(LocalProcessSpawner):
    """A learner's server with limits that its kernels inherit and cannot raise.

    RLIMIT_DATA counts what a process allocates and not the libraries that it maps, so it can be
    near what a kernel really holds; a kernel over it gets a MemoryError and not the machine.
    """

    def make_preexec_fn(self, name):
        become = super().make_preexec_fn(name)

        def limited():
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_NPROC, (PROCESSES, PROCESSES))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.nice(5)  # the hub and the proxy answer first
            os.umask(0o077)  # what a learner writes, the others cannot read
            become()

        return limited


c = get_config()  # noqa: F821 (JupyterHub gives it to its configuration)
c.JupyterHub.bind_url = os.environ.get("SIZING_HUB_ADDRESS", "http://127.0.0.1:8000")
c.JupyterHub.hub_bind_url = os.environ.get("SIZING_HUB_INNER", "http://127.0.0.1:8081")
c.ConfigurableHTTPProxy.command = [str(Path(sys.prefix) / "bin" / "configurable-http-proxy")]
c.ConfigurableHTTPProxy.api_url = os.environ.get("SIZING_HUB_PROXY", "http://127.0.0.1:8001")
c.JupyterHub.db_url = f"sqlite:///{STATE / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(STATE / "cookie_secret")
c.ConfigurableHTTPProxy.pid_file = str(STATE / "proxy.pid")

c.JupyterHub.authenticator_class = "pam"
c.PAMAuthenticator.open_sessions = False
c.Authenticator.allowed_users = set(os.environ.get("SIZING_HUB_LEARNERS", "").split())

c.JupyterHub.spawner_class = LimitedSpawner
c.Spawner.cmd = [PYTHON, "-m", "jupyterhub.singleuser"]
c.Spawner.ip = "127.0.0.1"
c.Spawner.default_url = "/lab"
# Kernels speak through sockets in the learner's own folder. Ports of the machine are drawn free and
# taken later: of thirty servers that start kernels at once, two drew the same one.
c.Spawner.args = ["--KernelManager.transport=ipc"]
c.Spawner.start_timeout = c.Spawner.http_timeout = 600  # thirty at once on few cores
c.Spawner.environment = {
    "OMP_NUM_THREADS": THREADS,
    "SIZING_RECORDED": os.environ.get("SIZING_RECORDED", "1"),
    # the course belongs to root: guesses and measurements lie in each learner's home
    "SIZING_LEARNER_DIR": lambda spawner: f"{pwd.getpwnam(spawner.user.name).pw_dir}/.sizing",
    # a socket's path has at most 107 letters
    "JUPYTER_RUNTIME_DIR": lambda spawner: f"{pwd.getpwnam(spawner.user.name).pw_dir}/.jupyter-run",
    "SIZING_QUEUE": os.environ.get("SIZING_HUB_QUEUE", ""),
    "SIZING_CLASS": os.environ.get("SIZING_HUB_CLASS", ""),
}
c.Spawner.env_keep = ["PATH", "LANG", "JUPYTER_PATH", "JUPYTER_CONFIG_PATH", "PYTHONPATH"]
# A limit answers the eleventh of a room that opens the page at once with "429 Too Many Requests".
c.JupyterHub.concurrent_spawn_limit = 0
