"""The tokens of a language model as they come, in the OpenAI streaming format; Ctrl-C stops the model, too."""

import json
import sys
import threading

import syncflow
from syncflow.testing import AppServer, Request, Response

stopped = threading.Event()
prompt = " ".join(sys.argv[1:]) or "Say this: callers block, sockets don't, and waiting for a token costs nothing."


def complete_chat(request: Request) -> Response:  # with "stream": true, of a model that repeats its prompt
    def stream():  # closed by the server when its client has left
        try:
            for word in json.loads(request.body)["messages"][-1]["content"].split():
                choice = {"index": 0, "delta": {"content": word + " "}, "finish_reason": None}
                yield b"data: %b\n\n" % json.dumps({"object": "chat.completion.chunk", "choices": [choice]}).encode()
                stopped.wait(0.02)
            yield b"data: [DONE]\n\n"
        finally:
            stopped.set()

    return Response(200, {"Content-Type": "text/event-stream"}, stream())


with AppServer(complete_chat) as server, syncflow.Session() as session:
    question = {"model": "local", "stream": True, "messages": [{"role": "user", "content": prompt}]}
    with session.post(f"{server.url}/v1/chat/completions", json=question, stream=True) as response:
        try:
            for event in response.iter_sse():
                if event.data == "[DONE]":
                    break
                print(event.json()["choices"][0]["delta"]["content"], end="", flush=True)
            print("\ndone")
        except KeyboardInterrupt:
            print("\ncancelled")
    print("the server has stopped:", stopped.wait(5))
