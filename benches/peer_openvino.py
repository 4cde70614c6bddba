"""OpenVINO on the graph that ONNX Runtime gets too, before that one's own fusions; it fuses by itself.

For the hint of latency one request uses all threads. For that of throughput every stream has a share of the threads and
requests are under way at once, which can be ahead where there are many batches.
"""
import numpy as np

from peer_files import onnx_paths


def engines(a, dtype):
    """By name of the hint: how many batches are computed at a time, and what computes a list of them."""
    import openvino
    core = openvino.Core()
    model = core.read_model(onnx_paths(a.model, a.cache)["raw"])
    settings = {"INFERENCE_PRECISION_HINT": dtype, "INFERENCE_NUM_THREADS": a.threads, "ENABLE_HYPER_THREADING": True}
    latency = core.compile_model(model, "CPU", {**settings, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1})
    used = latency.get_property("INFERENCE_PRECISION_HINT").to_string()
    if {"f32": "f32", "bf16": "bf16"}[dtype] != used:
        raise RuntimeError(f"OpenVINO computes in {used} where {dtype} was asked for")
    forwards = {"latency": (1, in_turn(latency))}
    if a.threads > 1:
        throughput = core.compile_model(model, "CPU", {**settings, "PERFORMANCE_HINT": "THROUGHPUT"})
        streams = throughput.get_property("NUM_STREAMS")
        if streams > 1:
            forwards[f"throughput, {streams} streams"] = streams, at_once(throughput, streams)
    return forwards, {"openvino": openvino.__version__, "precision": used}


def in_turn(compiled):
    request, names = compiled.create_infer_request(), [i.get_any_name() for i in compiled.inputs]

    def run(batches):
        # What a request gives lies in a buffer that the next one overwrites.
        return [np.array(request.infer({name: batch[name] for name in names}, share_inputs=True)[0]) for batch in batches]
    return run


def at_once(compiled, streams):
    from openvino import AsyncInferQueue
    queue, names, found = AsyncInferQueue(compiled, streams), [i.get_any_name() for i in compiled.inputs], {}
    queue.set_callback(lambda request, at: found.__setitem__(at, np.array(request.get_output_tensor(0).data)))

    def run(batches):
        found.clear()
        for at, batch in enumerate(batches):
            queue.start_async({name: batch[name] for name in names}, at, share_inputs=True)
        queue.wait_all()
        return [found[at] for at in range(len(batches))]
    return run
