"""The tokens of a language model as they come, in the OpenAI streaming format; Ctrl-C stops the model, too."""

import json
import threading

import syncflow
from syncflow.testing import AppServer, Request, Response

ANSWER = "Callers block, sockets don't: a thread that waits for a token costs nothing until the token is there. " * 3
stopped = threading.Event()


def complete_chat(request: Request) -> Response:
    """POST /v1/chat/completions with "stream": true. The server closes the generator when its client has left."""

    def stream():
        try:
            for word in ANSWER.split():
                choice = {"index": 0, "delta": {"content": word + " "}, "finish_reason": None}
                yield b"data: %b\n\n" % json.dumps({"object": "chat.completion.chunk", "choices": [choice]}).encode()
                stopped.wait(0.01)
            yield b"data: [DONE]\n\n"
        finally:
            stopped.set()

    return Response(200, {"Content-Type": "text/event-stream"}, stream())


with AppServer(complete_chat) as server, syncflow.Session() as session:
    question = {"model": "local", "stream": True, "messages": [{"role": "user", "content": "Why threads?"}]}
    with session.post(f"{server.url}/v1/chat/completions", json=question, stream=True) as response:
        try:
            for event in response.iter_sse():
                if event.data == "[DONE]":
                    print("\ndone")
                    break
                print(event.json()["choices"][0]["delta"]["content"], end="", flush=True)
        except KeyboardInterrupt:
            print("\ncancelled")
    print("the server has stopped:", stopped.wait(5))
