"""Programs: our agent, the API it listens to, what container runtimes read, and others that manage networks too."""

from __future__ import annotations

from collections.abc import Iterator

from podnet.network.checkup.finding import Finding, error, warning
from podnet.network.checkup.survey import Survey
from podnet.state.resource import LINK_PREFIX

PLUGIN = "podnet-cni"


def agent(survey: Survey) -> Iterator[Finding]:
    """Does it run, is it ready, did it leave something undone?"""
    said = survey.agent
    if said.away:
        why = "existing pods keep their network, but nothing is repaired and no pod can start"
        yield error(said.away, why, "start it: podnet agent, or podnet lab up")
    elif said.reason:
        yield error(f"the agent is not ready: {said.reason}", "no pod can start on this node", "see the reason")
    for what in said.undone:
        yield error(what, "the kernel is not as it should be; the agent tries again", "podnet plan --diff shows all")


def api(survey: Survey) -> Iterator[Finding]:
    """Can the API be asked?"""
    if survey.cluster.away:
        why = "pods keep their network, but the agent learns of no new node or setting"
        yield warning(f"the API can't be asked: {survey.cluster.away}", why, "check the kubeconfig and the server")


def conflists(survey: Survey) -> Iterator[Finding]:
    """Will container runtimes use us? They take the first file in the order of names."""
    files, known = sorted(survey.conflists, key=lambda file: file.name), not survey.agent.away
    ours = next((file for file in files if PLUGIN in file.types), None)
    ready = known and not survey.agent.reason
    if ready and ours is None:
        fix = "is --conf-dir of the agent the directory that the runtime reads? else restart the agent"
        yield error("there is no CNI configuration of podnet", "container runtimes can't use the network", fix)
    if ours is not None and not known:
        fix = "start the agent, or remove the file with podnet clean"
        yield warning(f"{ours.name} is there, but no agent answers", "starting a pod fails with CNI error 11", fix)
    for file in files:
        if file.fault:
            fix = f"correct or remove {file.name}"
            yield warning(f"{file.name} can't be read: {file.fault}", "some runtimes stop at such a file", fix)
        elif ours is not None and file.name < ours.name:
            why = "container runtimes take the first file by name, so new pods join another network"
            yield error(f"{file.name} ({', '.join(file.types)}) comes before {ours.name}", why, f"remove {file.name}")


def managers(survey: Survey) -> Iterator[Finding]:
    """Does somebody else want to configure our links or remove our routes?"""
    managed = [link.name for link in survey.links if link.managed and link.name.startswith(LINK_PREFIX)]
    if managed:
        why = "it takes away addresses and routes that it did not make"
        fix = "in /etc/NetworkManager/conf.d/podnet.conf: [keyfile] unmanaged-devices=interface-name:podnet*"
        yield error(f"NetworkManager manages {', '.join(managed)}", why, fix)
    elif "NetworkManager" in survey.programs:
        fix = "in /etc/NetworkManager/conf.d/podnet.conf: [keyfile] unmanaged-devices=interface-name:podnet*"
        yield warning("NetworkManager runs here", "it may take new links of podnet into its care", fix)
    if "systemd-networkd" in survey.programs and not survey.keeps_foreign_routes:
        why = "when it restarts it removes routes that it did not make; the agent puts them back within a second"
        fix = "in /etc/systemd/networkd.conf.d/podnet.conf: [Network] ManageForeignRoutes=no"
        yield warning("systemd-networkd removes foreign routes", why, fix)
