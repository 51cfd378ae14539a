"""Drives an API server with PyPI's `kubernetes` through all that kflash asks of one, and checks that it behaves as
the API's conventions say. Exits with an error at the first difference.

usage: client.py URL  (users `admin`, which may do everything, and `flasher`, bound to the Role)

The namespace `printers` holds deployment/voron-klipper with one ready pod, statefulset/trident-klipper with none, and
the empty Lease kflash-voron. Pods take a while to start and to end.
"""

import datetime
import http.client
import json
import sys
import threading
import time
import urllib.parse

from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException

URL = sys.argv[1]
NS = "printers"
SELECTOR = "app.kubernetes.io/name=klipper,app.kubernetes.io/instance=voron"


def connect(user):
    configuration = client.Configuration()
    configuration.host = URL
    configuration.api_key = {"authorization": user}
    configuration.api_key_prefix = {"authorization": "Bearer"}
    configuration.retries = False
    return client.ApiClient(configuration)


def fails(code, reason, call):
    try:
        call()
    except ApiException as error:
        assert error.status == code, (error.status, error.body)
        body = json.loads(error.body)
        assert body["kind"] == "Status" and body["status"] == "Failure" and body["code"] == code, body
        assert body["reason"] == reason, body
        return body
    raise AssertionError(f"no error, where {code} was due")


def now():
    return datetime.datetime.now(datetime.timezone.utc)


admin = connect("admin")
apps, core, coordination = client.AppsV1Api(admin), client.CoreV1Api(admin), client.CoordinationV1Api(admin)


def leases():
    lease = coordination.read_namespaced_lease("kflash-voron", NS)
    assert lease.kind == "Lease" and lease.api_version == "coordination.k8s.io/v1"
    assert lease.spec.holder_identity is None and lease.metadata.uid and lease.metadata.creation_timestamp
    old = lease.metadata.resource_version

    # Compare and swap.
    lease.spec.holder_identity = "uid-1"
    lease.spec.acquire_time = lease.spec.renew_time = now()
    lease.spec.lease_duration_seconds = 60
    lease.metadata.annotations = {"kflash.dev/restore-replicas": "1"}
    taken = coordination.replace_namespaced_lease("kflash-voron", NS, lease)
    assert int(taken.metadata.resource_version) > int(old)
    assert taken.metadata.uid == lease.metadata.uid
    assert taken.metadata.annotations["kflash.dev/restore-replicas"] == "1"
    assert abs(taken.spec.renew_time - lease.spec.renew_time) < datetime.timedelta(milliseconds=1)
    lease.spec.holder_identity = "uid-2"
    body = fails(409, "Conflict", lambda: coordination.replace_namespaced_lease("kflash-voron", NS, lease))
    assert "the object has been modified" in body["message"], body
    assert body["details"] == {"name": "kflash-voron", "group": "coordination.k8s.io", "kind": "leases"}, body

    # A write that changes nothing is none.
    same = coordination.replace_namespaced_lease("kflash-voron", NS, taken)
    assert same.metadata.resource_version == taken.metadata.resource_version

    taken.metadata.resource_version = None
    fails(422, "Invalid", lambda: coordination.replace_namespaced_lease("kflash-voron", NS, taken))
    taken.metadata.resource_version = same.metadata.resource_version
    taken.spec.lease_duration_seconds = 0
    fails(422, "Invalid", lambda: coordination.replace_namespaced_lease("kflash-voron", NS, taken))
    taken.spec.lease_duration_seconds = 60
    another = client.V1Lease(metadata=client.V1ObjectMeta(name="another"), spec=client.V1LeaseSpec())
    coordination.create_namespaced_lease(NS, another)
    fails(400, "BadRequest", lambda: coordination.replace_namespaced_lease("another", NS, taken))

    taken.spec.holder_identity = None
    taken.metadata.annotations = None
    free = coordination.replace_namespaced_lease("kflash-voron", NS, taken)
    assert free.spec.holder_identity is None and not free.metadata.annotations
    fails(404, "NotFound", lambda: coordination.read_namespaced_lease("absent", NS))
    fails(404, "NotFound", lambda: coordination.read_namespaced_lease("kflash-voron", "elsewhere"))
    new = client.V1Lease(metadata=client.V1ObjectMeta(name="kflash-voron"))
    fails(409, "AlreadyExists", lambda: coordination.create_namespaced_lease(NS, new))


def finalizers():
    """An object with a finalizer outlives its deletion, until that is taken away."""
    def lease(name, **metadata):
        return client.V1Lease(metadata=client.V1ObjectMeta(name=name, **metadata), spec=client.V1LeaseSpec())

    def delete():
        # As it came: some versions of the client take every answer for a Status.
        return json.loads(coordination.delete_namespaced_lease("going", NS, _preload_content=False).data)

    # Without one it is gone at once, and the answer says no more.
    made = coordination.create_namespaced_lease(NS, lease("going", deletion_timestamp=now()))
    assert made.metadata.deletion_timestamp is None and made.metadata.finalizers is None
    gone = delete()
    assert (gone["kind"], gone["status"], gone["details"]["uid"]) == ("Status", "Success", made.metadata.uid), gone
    fails(404, "NotFound", lambda: coordination.read_namespaced_lease("going", NS))
    fails(404, "NotFound", delete)
    # The UID of what is no more is that of nothing.
    made.spec.holder_identity = "uid-1"
    fails(409, "Conflict", lambda: coordination.replace_namespaced_lease("going", NS, made))
    fails(422, "Invalid", lambda: coordination.create_namespaced_lease(NS, lease("going", finalizers=["kflash.dev/"])))

    # Set by a PUT, with all else.
    made = coordination.create_namespaced_lease(NS, lease("going"))
    seen = made.metadata.resource_version
    made.metadata.finalizers = ["kflash.dev/owed"]
    made.spec.holder_identity = "uid-1"
    held = coordination.replace_namespaced_lease("going", NS, made)
    assert held.metadata.finalizers == ["kflash.dev/owed"]
    held.metadata.deletion_timestamp = now()
    fails(422, "Invalid", lambda: coordination.replace_namespaced_lease("going", NS, held))
    answer = delete()
    assert answer["kind"] == "Lease" and answer["metadata"]["deletionTimestamp"], answer
    going = coordination.read_namespaced_lease("going", NS)
    assert going.metadata.deletion_timestamp and going.metadata.deletion_grace_period_seconds == 0
    assert int(going.metadata.resource_version) > int(held.metadata.resource_version)
    again = delete()
    assert again["metadata"]["resourceVersion"] == going.metadata.resource_version, again
    fails(409, "AlreadyExists", lambda: coordination.create_namespaced_lease(NS, lease("going")))

    # What was read before it went is out of date.
    held.metadata.deletion_timestamp = None
    fails(409, "Conflict", lambda: coordination.replace_namespaced_lease("going", NS, held))
    # It can be changed, also by whoever does not repeat that it is going; but nothing more can hold it up.
    going.metadata.deletion_timestamp = going.metadata.deletion_grace_period_seconds = None
    going.spec.holder_identity = "uid-2"
    changed = coordination.replace_namespaced_lease("going", NS, going)
    assert changed.spec.holder_identity == "uid-2" and changed.metadata.deletion_timestamp
    changed.metadata.finalizers = ["kflash.dev/owed", "kflash.dev/more"]
    body = fails(422, "Invalid", lambda: coordination.replace_namespaced_lease("going", NS, changed))
    assert "no new finalizers can be added if the object is being deleted" in body["message"], body
    more = {"metadata": {"finalizers": ["kflash.dev/more"]}}
    fails(422, "Invalid", lambda: coordination.patch_namespaced_lease("going", NS, more))

    # The last one goes, and the object with it; the answer is the object as it was put.
    changed.metadata.finalizers = None
    changed.spec.holder_identity = None
    released = coordination.replace_namespaced_lease("going", NS, changed)
    assert released.kind == "Lease" and released.metadata.uid == changed.metadata.uid
    assert released.metadata.finalizers is None and released.spec.holder_identity is None
    fails(404, "NotFound", lambda: coordination.read_namespaced_lease("going", NS))

    stream = watch.Watch().stream(
        coordination.list_namespaced_lease, NS, field_selector="metadata.name=going", resource_version=seen,
        timeout_seconds=1,
    )
    events = [
        (event["type"], event["object"].metadata.deletion_timestamp is not None, event["object"].spec.holder_identity)
        for event in stream
    ]
    # The release itself is never stored.
    assert events == [
        ("MODIFIED", False, "uid-1"), ("MODIFIED", True, "uid-1"), ("MODIFIED", True, "uid-2"), ("DELETED", True, "uid-2"),
    ], events


def names(**how):
    return [pod.metadata.name for pod in core.list_namespaced_pod(NS, **how).items]


def scales():
    scale = apps.read_namespaced_deployment_scale("voron-klipper", NS)
    assert scale.kind == "Scale" and scale.api_version == "autoscaling/v1"
    assert scale.spec.replicas == 1 and scale.status.replicas == 1, scale
    assert set(scale.status.selector.split(",")) == set(SELECTOR.split(",")), scale.status.selector
    deployment = apps.read_namespaced_deployment("voron-klipper", NS)
    assert deployment.metadata.resource_version == scale.metadata.resource_version
    assert deployment.metadata.uid == scale.metadata.uid

    pods = core.list_namespaced_pod(NS, label_selector=SELECTOR)
    assert len(pods.items) == 1 and pods.metadata.resource_version
    pod = pods.items[0]
    assert pod.status.phase == "Running" and pod.status.container_statuses[0].ready
    assert pod.metadata.owner_references[0].name == "voron-klipper"
    assert names(label_selector="app.kubernetes.io/instance=other") == []
    assert names(label_selector="app.kubernetes.io/instance in (voron, other)") == [pod.metadata.name]
    assert names(label_selector="app.kubernetes.io/instance notin (voron)") == []
    assert names(label_selector="app.kubernetes.io/name,!absent") == [pod.metadata.name]
    assert names(field_selector="status.phase=Running") == [pod.metadata.name]
    assert names(field_selector="metadata.name=x") == []
    fails(400, "BadRequest", lambda: names(label_selector="a=-b"))

    # Down, and a watch from the list's version sees the pod end and go.
    seen = []

    def follow():
        stream = watch.Watch().stream(
            core.list_namespaced_pod, NS, label_selector=SELECTOR,
            resource_version=pods.metadata.resource_version, timeout_seconds=20,
        )
        for event in stream:
            seen.append((event["type"], event["object"].metadata.deletion_timestamp is not None))
            if event["type"] == "DELETED":
                return

    follower = threading.Thread(target=follow)
    follower.start()
    stale = {"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 0}}
    fails(409, "Conflict", lambda: apps.patch_namespaced_deployment_scale("voron-klipper", NS, stale))
    fails(422, "Invalid", lambda: apps.patch_namespaced_deployment_scale("voron-klipper", NS, {"spec": {"replicas": -1}}))
    down = apps.patch_namespaced_deployment_scale("voron-klipper", NS, {"spec": {"replicas": 0}})
    # Of what is nothing, the field is left out.
    assert down.spec.replicas is None and int(down.metadata.resource_version) > int(scale.metadata.resource_version)
    began = time.monotonic()
    assert names(label_selector=SELECTOR), "a pod takes its time to end"
    follower.join(20)
    assert not follower.is_alive() and seen[-1] == ("DELETED", True), seen
    assert ("MODIFIED", True) in seen, seen
    assert time.monotonic() - began > 0.2
    assert names(label_selector=SELECTOR) == []
    assert apps.read_namespaced_deployment("voron-klipper", NS).spec.replicas == 0
    assert apps.read_namespaced_deployment("voron-klipper", NS).metadata.generation == deployment.metadata.generation + 1

    # And up, by a JSON patch and by a PUT; what is merely created is not ready yet.
    patch = [{"op": "add", "path": "/spec/replicas", "value": 2}]
    assert apps.patch_namespaced_deployment_scale("voron-klipper", NS, patch).spec.replicas == 2
    scale = replace_scale(apps, 1)
    fails(409, "Conflict", lambda: apps.replace_namespaced_deployment_scale("voron-klipper", NS, scale))
    until(lambda: [p.status.phase for p in core.list_namespaced_pod(NS, label_selector=SELECTOR).items] == ["Pending"])
    until(lambda: all(p.status.container_statuses[0].ready for p in core.list_namespaced_pod(NS, label_selector=SELECTOR).items))

    # A pod that is deleted is replaced, under another name.
    old = names(label_selector=SELECTOR)
    core.delete_namespaced_pod(old[0], NS)
    until(lambda: names(label_selector=SELECTOR) not in ([], old))

    # A StatefulSet's pods have its name.
    apps.patch_namespaced_stateful_set_scale("trident-klipper", NS, {"spec": {"replicas": 1}})
    until(lambda: "trident-klipper-0" in names())
    fails(404, "NotFound", lambda: apps.read_namespaced_stateful_set_scale("voron-klipper", NS))


def replace_scale(apps, replicas):
    """Puts a scale, as who reads and writes has to: once more, if the controller wrote a status between. Returns what
    was sent."""
    for _ in range(20):
        scale = apps.read_namespaced_deployment_scale("voron-klipper", NS)
        scale.spec.replicas = replicas
        try:
            assert apps.replace_namespaced_deployment_scale("voron-klipper", NS, scale).spec.replicas == replicas
            return scale
        except ApiException as error:
            assert error.status == 409, (error.status, error.body)
    raise AssertionError("twenty conflicts in a row")


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it does not come to that"
        time.sleep(0.02)


def watches():
    # Without a version, what is there comes first.
    stream = watch.Watch().stream(core.list_namespaced_pod, NS, label_selector=SELECTOR, timeout_seconds=1)
    began = time.monotonic()
    assert [event["type"] for event in stream][0] == "ADDED"
    assert 0.5 < time.monotonic() - began < 20, "it ends when it was asked to"

    # A Lease that changes is seen, and only it.
    version = coordination.list_namespaced_lease(NS).metadata.resource_version
    patch = {"metadata": {"annotations": {"kflash.dev/result": "{}"}}}
    coordination.patch_namespaced_lease("kflash-voron", NS, patch)
    apps.patch_namespaced_deployment_scale("voron-klipper", NS, {"spec": {"replicas": 1}})
    stream = watch.Watch().stream(
        coordination.list_namespaced_lease, NS, field_selector="metadata.name=kflash-voron",
        resource_version=version, timeout_seconds=1,
    )
    events = [(event["type"], event["object"].metadata.annotations) for event in stream]
    assert events == [("MODIFIED", {"kflash.dev/result": "{}"})], events
    coordination.patch_namespaced_lease("kflash-voron", NS, {"metadata": {"annotations": {"kflash.dev/result": None}}})
    assert not coordination.read_namespaced_lease("kflash-voron", NS).metadata.annotations

    # From a version that is forgotten: 410, which the client turns into an error after it tried once more by itself.
    stream = watch.Watch().stream(core.list_namespaced_pod, NS, resource_version="1", timeout_seconds=1)
    try:
        list(stream)
        raise AssertionError("no error, where 410 was due")
    except ApiException as error:
        assert error.status == 410 and "too old resource version" in error.reason, error


def may(user):
    flasher = connect(user)
    apps, core, coordination = client.AppsV1Api(flasher), client.CoreV1Api(flasher), client.CoordinationV1Api(flasher)
    assert apps.read_namespaced_deployment("voron-klipper", NS).spec.replicas == 1
    assert apps.read_namespaced_deployment_scale("voron-klipper", NS).spec.replicas == 1
    assert apps.patch_namespaced_deployment_scale("voron-klipper", NS, {"spec": {"replicas": 1}}).spec.replicas == 1
    lease = coordination.read_namespaced_lease("kflash-voron", NS)
    coordination.replace_namespaced_lease("kflash-voron", NS, lease)
    assert core.list_namespaced_pod(NS).items
    event = client.CoreV1Event(
        metadata=client.V1ObjectMeta(name="kflash-voron.17c"), reason="KlipperStopped", type="Normal", message="stopped",
        involved_object=client.V1ObjectReference(kind="Lease", name="kflash-voron", namespace=NS),
        first_timestamp=now().replace(microsecond=0), last_timestamp=now().replace(microsecond=0), count=1,
    )
    core.create_namespaced_event(NS, event)
    fails(409, "AlreadyExists", lambda: core.create_namespaced_event(NS, event))
    event.metadata.name, event.involved_object.namespace = "other", "elsewhere"
    fails(422, "Invalid", lambda: core.create_namespaced_event(NS, event))

    lease.metadata.resource_version = None
    lease.metadata.name = "mine"
    for call in [
        lambda: apps.patch_namespaced_deployment("voron-klipper", NS, {"spec": {"replicas": 3}}),
        lambda: apps.read_namespaced_deployment("other", NS),
        lambda: apps.list_namespaced_deployment(NS),
        lambda: apps.patch_namespaced_deployment_scale("other", NS, {"spec": {"replicas": 3}}),
        lambda: apps.replace_namespaced_deployment_scale("voron-klipper", NS, {"spec": {"replicas": 3}}),
        lambda: apps.read_namespaced_stateful_set_scale("trident-klipper", NS),
        lambda: coordination.create_namespaced_lease(NS, lease),
        lambda: coordination.delete_namespaced_lease("kflash-voron", NS),
        lambda: coordination.list_namespaced_lease(NS),
        lambda: core.delete_namespaced_pod("x", NS),
        lambda: core.read_namespaced_pod("x", NS),
    ]:
        body = fails(403, "Forbidden", call)
        assert 'is forbidden: User "system:serviceaccount:printers:flasher" cannot ' in body["message"], body
    fails(401, "Unauthorized", lambda: client.CoreV1Api(connect("nobody")).list_namespaced_pod(NS))


def bookmarks():
    """They come every so often, and bear nothing but a version."""
    connection = http.client.HTTPConnection(urllib.parse.urlparse(URL).netloc, timeout=90)
    version = core.list_namespaced_pod(NS).metadata.resource_version
    query = f"watch=1&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds=80"
    connection.request("GET", f"/api/v1/namespaces/{NS}/pods?{query}", headers={"Authorization": "Bearer admin"})
    response = connection.getresponse()
    assert response.status == 200
    event = json.loads(response.readline())
    assert event["type"] == "BOOKMARK", event
    metadata = event["object"]["metadata"]
    assert event["object"]["kind"] == "Pod" and int(metadata["resourceVersion"]) >= int(version), event
    connection.close()


for step in (leases, finalizers, scales, watches, lambda: may("flasher"), bookmarks):
    step()
print("ok")
