"""LoRA's part of a layer, `y += B (A x)` with an adapter of its own for each segment of rows, as others compute it.

`A` is `[adapters, rank, width]`, `B` `[adapters, rank, width]` (transposed, as polylora stores it), `x` and `y`
`[rows, width]`. Each function makes what depends on the batch alone and gives what is called again and again.
"""
import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # no wheel of it for this platform
    triton = None


def owners(segments, device):
    """The adapter of each row."""
    lengths = torch.tensor(segments)
    return torch.repeat_interleave(torch.arange(len(segments)), lengths).to(device)


def gather_bmm(segments, device):
    """A and B gathered for each row, then two batched products: the usual way without a kernel of one's own."""
    rows = owners(segments, device)

    def run(x, y, a, b):
        h = torch.bmm(a[rows], x.unsqueeze(2))
        return y.add_(torch.bmm(h.transpose(1, 2), b[rows]).squeeze(1))
    return run


def segment_loop(segments, device):
    """Two products a segment."""
    bounds, at = [], 0
    for length in segments:
        bounds.append((at, at + length))
        at += length

    def run(x, y, a, b):
        for adapter, (start, end) in enumerate(bounds):
            y[start:end].addmm_(x[start:end] @ a[adapter].t(), b[adapter])
        return y
    return run


if triton is not None:
    @triton.jit
    def bgmv_shrink(x, a, owner, h, width, rank, RANK: tl.constexpr, BLOCK: tl.constexpr):
        """One row: all its hidden columns."""
        row = tl.program_id(0)
        ranks = tl.arange(0, RANK)
        columns = tl.arange(0, BLOCK)
        at = tl.load(owner + row).to(tl.int64) * rank * width
        total = tl.zeros((RANK,), tl.float32)
        for start in range(0, width, BLOCK):
            column = start + columns
            value = tl.load(x + row * width + column, mask=column < width, other=0.0).to(tl.float32)
            inside = (ranks[:, None] < rank) & (column[None, :] < width)
            part = tl.load(a + at + ranks[:, None] * width + column[None, :], mask=inside, other=0.0)
            total += tl.sum(part.to(tl.float32) * value[None, :], axis=1)
        tl.store(h + row * RANK + ranks, total)

    @triton.jit
    def bgmv_expand(h, b, owner, y, width, rank, RANK: tl.constexpr, BLOCK: tl.constexpr):
        """One row by a block of columns."""
        row = tl.program_id(0)
        ranks = tl.arange(0, RANK)
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        at = tl.load(owner + row).to(tl.int64) * rank * width
        hidden = tl.load(h + row * RANK + ranks)
        inside = (ranks[:, None] < rank) & (column[None, :] < width)
        part = tl.load(b + at + ranks[:, None] * width + column[None, :], mask=inside, other=0.0)
        total = tl.sum(part.to(tl.float32) * hidden[:, None], axis=0)
        place = y + row * width + column
        before = tl.load(place, mask=column < width, other=0.0)
        tl.store(place, (before.to(tl.float32) + total).to(before.dtype), mask=column < width)

    @triton.jit
    def sgmv_shrink(x, a, tiles, h, width, rank, RANK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
                    PRECISION: tl.constexpr):
        """A tile of rows of one adapter: all their hidden columns."""
        tile = tiles + tl.program_id(0) * 3
        first, count, adapter = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2).to(tl.int64)
        rows, ranks, columns = tl.arange(0, ROWS), tl.arange(0, RANK), tl.arange(0, BLOCK)
        total = tl.zeros((ROWS, RANK), tl.float32)
        at = adapter * rank * width
        for start in range(0, width, BLOCK):
            column = start + columns
            values = tl.load(x + (first + rows)[:, None] * width + column[None, :],
                             mask=(rows[:, None] < count) & (column[None, :] < width), other=0.0)
            part = tl.load(a + at + ranks[None, :] * width + column[:, None],
                           mask=(ranks[None, :] < rank) & (column[:, None] < width), other=0.0)
            total += tl.dot(values, part, input_precision=PRECISION)
        tl.store(h + (first + rows)[:, None] * RANK + ranks[None, :], total, mask=rows[:, None] < count)

    @triton.jit
    def sgmv_expand(h, b, tiles, y, width, rank, RANK: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
                    PRECISION: tl.constexpr):
        """A tile of rows of one adapter by a block of columns."""
        tile = tiles + tl.program_id(0) * 3
        first, count, adapter = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2).to(tl.int64)
        rows, ranks = tl.arange(0, ROWS), tl.arange(0, RANK)
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        hidden = tl.load(h + (first + rows)[:, None] * RANK + ranks[None, :], mask=rows[:, None] < count, other=0.0)
        part = tl.load(b + adapter * rank * width + ranks[:, None] * width + column[None, :],
                       mask=(ranks[:, None] < rank) & (column[None, :] < width), other=0.0)
        total = tl.dot(hidden.to(part.dtype), part, input_precision=PRECISION)
        place = y + (first + rows)[:, None] * width + column[None, :]
        inside = (rows[:, None] < count) & (column[None, :] < width)
        before = tl.load(place, mask=inside, other=0.0)
        tl.store(place, (before.to(tl.float32) + total).to(before.dtype), mask=inside)


def triton_bgmv(segments, device):
    """A kernel of our own writing: one row a program."""
    rows, count = owners(segments, device).to(torch.int32), sum(segments)

    def run(x, y, a, b):
        rank, width = a.shape[1], a.shape[2]
        room = max(8, triton.next_power_of_2(rank))
        block = min(triton.next_power_of_2(width), 4096 // room)
        h = torch.empty(count, room, dtype=torch.float32, device=x.device)
        bgmv_shrink[(count,)](x, a, rows, h, width, rank, RANK=room, BLOCK=block)
        bgmv_expand[(count, triton.cdiv(width, block))](h, b, rows, y, width, rank, RANK=room, BLOCK=block)
        return y
    return run


def triton_sgmv(segments, device):
    """A kernel of our own writing: tiles of rows of one adapter, on the matrix units."""
    height = 64 if sum(segments) >= 48 * len(segments) else 16
    tiles, at = [], 0
    for adapter, length in enumerate(segments):
        tiles += [(at + k, min(height, length - k), adapter) for k in range(0, length, height)]
        at += length
    table = torch.tensor(tiles, dtype=torch.int32).to(device)

    def run(x, y, a, b):
        rank, width = a.shape[1], a.shape[2]
        room = max(16, triton.next_power_of_2(rank))
        precision = "ieee" if x.dtype == torch.float32 else "tf32"
        h = torch.empty(x.shape[0], room, dtype=torch.float32, device=x.device)
        fixed = {"RANK": room, "ROWS": height, "PRECISION": precision}
        sgmv_shrink[(len(tiles),)](x, a, table, h, width, rank, BLOCK=64, **fixed)
        sgmv_expand[(len(tiles), triton.cdiv(width, 128))](h, b, table, y, width, rank, BLOCK=128, **fixed)
        return y
    return run


def peers(with_triton):
    """Name to maker."""
    found = {"torch bmm": gather_bmm, "torch loop": segment_loop}
    if with_triton and triton is not None:
        found |= {"triton BGMV": triton_bgmv, "triton SGMV": triton_sgmv}
    return found


def difference(device, dtype, with_triton, segments, rank, width):
    """The largest distance of each peer's result from a sum in float64, relative to the largest value."""
    torch.manual_seed(1)
    rows, adapters = sum(segments), len(segments)
    x, y = torch.randn(rows, width), torch.randn(rows, width)
    a, b = torch.randn(adapters, rank, width) / width ** 0.5, torch.randn(adapters, rank, width) / rank ** 0.5
    x, y, a, b = [t.to(device, dtype) for t in (x, y, a, b)]
    owner = owners(segments, "cpu").tolist()
    wide = [t.double().cpu() for t in (x, y, a, b)]
    want = torch.stack([wide[1][i] + (wide[2][o] @ wide[0][i]) @ wide[3][o] for i, o in enumerate(owner)])
    found = {}
    for name, make in peers(with_triton).items():
        got = make(segments, device)(x, y.clone(), a, b).double().cpu()
        found[name] = float((got - want).abs().max() / want.abs().max())
    return found
