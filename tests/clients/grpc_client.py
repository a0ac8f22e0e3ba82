"""A generated gRPC client: each kind of call through baton. ADDRESS AUTHORITY CA-FILE"""

import queue
import sys

import grpc

import echo_pb2
import echo_pb2_grpc

address, authority, ca_file = sys.argv[1:]
with open(ca_file, "rb") as file:
    credentials = grpc.ssl_channel_credentials(file.read())
options = [("grpc.ssl_target_name_override", authority), ("grpc.default_authority", authority)]
echo = echo_pb2_grpc.EchoStub(grpc.secure_channel(address, credentials, options))


def message(number, text="text"):
    return echo_pb2.Message(text=text, number=number)


# Bodies beyond a window of HTTP/2 and beyond a frame.
for text in ["", "short", "x" * 3_000_000]:
    assert echo.Unary(message(1, text), timeout=20).text == text
numbers = [answer.number for answer in echo.ServerStream(message(1000), timeout=20)]
assert numbers == list(range(1000)), numbers
assert echo.ClientStream(iter(message(n) for n in range(1000)), timeout=20).number == 499_500


# Each request goes out when the answer to the one before has come: nothing may be held back.
questions = queue.SimpleQueue()
questions.put(0)
for answer in echo.Both((message(number) for number in iter(questions.get, None)), timeout=20):
    questions.put(answer.number + 1 if answer.number < 100 else None)
assert answer.number == 100, answer

try:
    echo.Fail(message(1, "no"), timeout=20)
    sys.exit("Fail succeeded")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
    assert error.details() == "no", error
    assert ("x-why", "asked to") in error.trailing_metadata(), error
print("well")
