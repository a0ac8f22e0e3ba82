"""A gRPC server by the reference implementation. Prints its port once it serves."""

import sys
from concurrent import futures

import grpc

import echo_pb2
import echo_pb2_grpc


class Echo(echo_pb2_grpc.EchoServicer):
    def Unary(self, request, context):
        return request

    def ServerStream(self, request, context):
        for number in range(request.number):
            yield echo_pb2.Message(text=request.text, number=number)

    def ClientStream(self, requests, context):
        return echo_pb2.Message(number=sum(request.number for request in requests))

    def Both(self, requests, context):
        yield from requests

    def Fail(self, request, context):
        context.set_trailing_metadata((("x-why", "asked to"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, request.text)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
echo_pb2_grpc.add_EchoServicer_to_server(Echo(), server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
# Ends with whoever started it.
sys.stdin.read()
server.stop(None)
