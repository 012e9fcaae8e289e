"""A store that speaks S3, on the loopback alone; and jobs on it."""

import json
import logging
import pickle
import urllib.request

import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from wgquant import _parts

FORMAT = "nf4-dq"
OPTIONS = {"container": "bnb", "verify": "full", "shard_size": 60_000}
N_SHARDS = 5
KEYS = {"access_key_id": "AKIATEST", "secret_access_key": "secret", "region": "us-east-1"}


class Server:
    """moto's server, with as many buckets as there are tests."""

    def __init__(self):
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.server.start()
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        host, port = self.server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        self.options = {**KEYS, "endpoint": self.url, "allow_http": "true"}
        self.n_buckets = 0

    def stop(self):
        self.server.stop()

    def bucket(self):
        self.n_buckets += 1
        name = f"models-{self.n_buckets}"
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT"), timeout=30).close()
        return Bucket(self, name)

    def ask_for_keys(self):
        """From now on only a user's own keys are good, which are what this gives."""
        import boto3

        iam = boto3.client(
            "iam", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
        )
        iam.create_user(UserName="user")
        key = iam.create_access_key(UserName="user")["AccessKey"]
        allow = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
        iam.put_user_policy(UserName="user", PolicyName="all", PolicyDocument=json.dumps(allow))
        self._count("0")
        return {"access_key_id": key["AccessKeyId"], "secret_access_key": key["SecretAccessKey"]}

    def ask_for_none(self):
        self._count("inf")

    def _count(self, text):
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{self.url}/moto-api/reset-auth", text.encode(), headers, method="POST")
        urllib.request.urlopen(request, timeout=30).close()


class Bucket:
    """A bucket, and what a test looks at in it."""

    def __init__(self, server, name):
        self.name, self.options = name, server.options
        self.store = S3Store(name, config=server.options)

    def url(self, key):
        return f"s3://{self.name}/{key}"

    def upload(self, folder, prefix):
        for path in folder.iterdir():
            self.put(f"{prefix}/{path.name}", path.read_bytes())
        return self.url(prefix)

    def put(self, key, data):
        obstore.put(self.store, key, data)

    def get(self, key):
        return bytes(obstore.get(self.store, key).bytes())

    def delete(self, key):
        obstore.delete(self.store, key)

    def keys(self, prefix=None):
        return sorted(meta["path"] for batch in obstore.list(self.store, prefix) for meta in batch)

    def contents(self, prefix):
        """The objects directly in a prefix, as `conftest.contents` has files."""
        return {key.rpartition("/")[2]: self.get(key) for key in self.keys(prefix)}


def job(bucket, source, destination, scratch=None, **options):
    return _parts.Job(str(source), str(destination), FORMAT, {**OPTIONS, **options}, scratch, bucket.options)


def run(job, order=None):
    """What `wgquant.ray` does, without Ray. What goes from node to node is pickled there."""
    found, snapshot = pickle.loads(pickle.dumps(_parts.survey(job)))
    for number in order or range(1, found.n_files + 1):
        _parts.work(job, snapshot, (number, found.n_files), "cpu")
    _parts.finish(job, snapshot)
    return found


def refused(kind, sentence, job):
    with pytest.raises(kind, match=sentence) as raised:
        run(job)
    assert "\n" not in str(raised.value) and "scratch-" not in str(raised.value)
    return raised.value
