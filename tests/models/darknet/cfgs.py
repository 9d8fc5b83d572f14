"""Darknet cfg texts of published networks, written from the tables of docs/networks.md.

`divide` makes a network thinner by that factor everywhere, for quick tests; its graph stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

ANCHORS_A = "10,13, 16,30, 33,23, 30,61, 62,45, 59,119, 116,90, 156,198, 373,326"
ANCHORS_B = "12,16, 19,36, 40,28, 36,75, 76,55, 72,146, 142,110, 192,243, 459,401"
ANCHORS_C = "10,14, 23,27, 37,58, 81,82, 135,169, 344,319"
ANCHORS_V2 = "0.57273,0.677385, 1.87446,2.06253, 3.33843,5.47434, 7.88282,3.52778, 9.77052,9.16828"
"""In cells of 32 pixels."""


@dataclass
class Cfg:
    """A cfg text in the making; every method adds a layer and returns its index."""

    size: int = 416
    divide: int = 1
    activation: str = "leaky"
    layers: int = 0
    blocks: list[str] = field(default_factory=list)

    def add(self, kind: str, **options: object) -> int:
        self.blocks.append("\n".join((f"[{kind}]", *(f"{key}={value}" for key, value in options.items()))))
        self.layers += 1
        return self.layers - 1

    def conv(self, filters: int, size: int = 1, stride: int = 1, *, groups: int = 1, act: str | None = None) -> int:
        grouped = {} if groups == 1 else {"groups": groups}
        return self.add(
            "convolutional",
            batch_normalize=1,
            filters=max(filters // self.divide, 1),
            size=size,
            stride=stride,
            pad=1,
            **grouped,
            activation=act or self.activation,
        )

    def plain_conv(self, filters: int, act: str = "linear") -> int:
        return self.add("convolutional", filters=filters, size=1, stride=1, pad=1, activation=act)

    def depthwise(self, channels: int, stride: int = 1, *, filters: int | None = None, size: int = 3) -> int:
        groups = max(channels // self.divide, 1)
        return self.conv(filters or channels, size, stride, groups=groups)

    def route(self, *indices: int, **options: object) -> int:
        return self.add("route", layers=",".join(str(index - self.layers) for index in indices), **options)

    def shortcut(self, source: int, act: str = "linear") -> int:
        return self.add("shortcut", **{"from": source - self.layers}, activation=act)

    def maxpool(self, size: int = 2, stride: int = 2) -> int:
        return self.add("maxpool", size=size, stride=stride)

    def upsample(self) -> int:
        return self.add("upsample", stride=2)

    def yolo(self, mask: str, anchors: str, *, classes: int = 80, **options: object) -> int:
        """The 1x1 convolution and the yolo layer; returns the convolution."""
        conv = self.plain_conv(len(mask.split(",")) * (5 + classes))
        num = len(anchors.split(",")) // 2
        self.add("yolo", mask=mask, anchors=anchors, classes=classes, num=num, **options)
        return conv

    def region(self, anchors: str, *, classes: int = 80, **options: object) -> int:
        """The 1x1 convolution and the region layer with YOLOv2's options; returns the convolution."""
        num = len(anchors.split(",")) // 2
        conv = self.plain_conv(num * (5 + classes))
        scales = {"object_scale": 5, "noobject_scale": 1, "class_scale": 1, "coord_scale": 1}
        own = {"anchors": anchors, "bias_match": 1, "classes": classes, "coords": 4, "num": num, "softmax": 1}
        self.add("region", **{**own, "jitter": 0.3, "rescore": 1, **scales, "absolute": 1, "thresh": 0.6, **options})
        return conv

    def classify(self, classes: int = 1000, *, before_pool: bool = False) -> None:
        if before_pool:
            self.plain_conv(classes)
        self.add("avgpool")
        if not before_pool:
            self.plain_conv(classes)
        self.add("softmax", groups=1)

    @property
    def last(self) -> int:
        return self.layers - 1

    def text(self) -> str:
        net = f"[net]\n# written by a test\nbatch=1\nwidth={self.size}\nheight={self.size}\nchannels=3"
        return "\n\n".join((net, *self.blocks)) + "\n"


Taps = tuple[int, int, int]
"""Layers at stride 8, 16 and 32."""


def csp_resnet(cfg: Cfg, *, groups: int = 1, hidden: Sequence[int], t2: Sequence[int], elastic: bool = False) -> Taps:
    """docs/networks.md, CSPResNet-50, CSPResNeXt-50 and Elastic variants."""
    widths, depths, act = (128, 256, 512, 1024), (3, 3, 5, 2), cfg.activation
    cfg.conv(64, 7, 2)
    cfg.maxpool()
    taps = []
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        if stage:
            cfg.conv(t2[stage - 1], 3, 2, groups=groups if groups > 1 else 1)
        split = "linear" if stage in (1, 2) else act
        start = cfg.last
        bypass = cfg.conv(width, act=split)
        cfg.route(start)
        cfg.conv(64 if stage == 0 and not elastic else width, act=split)
        for _ in range(depth):
            block_input = cfg.last
            if elastic:
                elastic_block(cfg, partial(_bottleneck, cfg, hidden[stage], hidden[stage], max(groups // 2, 1)))
            else:
                _bottleneck(cfg, hidden[stage], width, groups)
            cfg.shortcut(block_input, act)
        t1 = cfg.conv(width)
        cfg.route(t1, bypass)
        taps.append(cfg.conv(t2[stage]))
    return taps[1], taps[2], taps[3]


def _bottleneck(cfg: Cfg, hidden: int, out: int, groups: int) -> int:
    cfg.conv(hidden)
    cfg.conv(hidden, 3, groups=groups)
    return cfg.conv(out, act="linear")


def elastic_block(cfg: Cfg, branch: Callable[[], int]) -> int:
    """Half of the channels at full resolution, half at half of it, joined (docs/networks.md, Elastic variants)."""
    source = cfg.last
    cfg.route(source, groups=2, group_id=0)
    full = branch()
    cfg.route(source, groups=2, group_id=1)
    cfg.maxpool()
    branch()
    half = cfg.upsample()
    return cfg.route(full, half)


def csresnet50(cfg: Cfg) -> Taps:
    return csp_resnet(cfg, hidden=(64, 128, 256, 512), t2=(128, 256, 512, 1024))


def csresnext50(cfg: Cfg) -> Taps:
    return csp_resnet(cfg, groups=32, hidden=(128, 256, 512, 1024), t2=(256, 512, 1024, 2048))


def csresnet50_elastic(cfg: Cfg) -> Taps:
    return csp_resnet(cfg, hidden=(64, 128, 256, 512), t2=(128, 256, 512, 1024), elastic=True)


def csresnext50_elastic(cfg: Cfg) -> Taps:
    return csp_resnet(cfg, groups=32, hidden=(64, 128, 256, 512), t2=(256, 512, 1024, 2048), elastic=True)


def csdarknet53(cfg: Cfg, *, elastic: bool = False) -> Taps:
    """docs/networks.md, CSPDarknet-53 and Elastic variants."""
    cfg.conv(32, 3)
    taps = []
    for stage, depth in enumerate((1, 2, 8, 8, 4)):
        width = 64 * 2**stage
        start = cfg.conv(width, 3, 2)
        half = width if stage == 0 else width // 2
        bypass = cfg.conv(half)
        cfg.route(start)
        cfg.conv(half)
        hidden = 32 if stage == 0 else half
        for _ in range(depth):
            block_input = cfg.last
            if elastic:
                wide = half // 2

                def branch(wide: int = wide) -> int:
                    cfg.conv(wide)
                    return cfg.conv(wide, 3)

                elastic_block(cfg, branch)
            else:
                cfg.conv(hidden)
                cfg.conv(half, 3)
            cfg.shortcut(block_input)
        t1 = cfg.conv(half)
        cfg.route(t1, bypass)
        taps.append(cfg.conv(width))
    return taps[2], taps[3], taps[4]


def darknet53(cfg: Cfg) -> Taps:
    """docs/networks.md, Plain baselines."""
    cfg.conv(32, 3)
    ends = []
    for stage, depth in enumerate((1, 2, 8, 8, 4)):
        width = 64 * 2**stage
        cfg.conv(width, 3, 2)
        for _ in range(depth):
            source = cfg.last
            cfg.conv(width // 2)
            cfg.conv(width, 3)
            cfg.shortcut(source)
        ends.append(cfg.last)
    return ends[2], ends[3], ends[4]


def resnet(cfg: Cfg, *, groups: int, hidden: Sequence[int]) -> None:
    """ResNet-50 and ResNeXt-50 without projections (docs/networks.md, Plain baselines)."""
    cfg.conv(64, 7, 2)
    cfg.maxpool()
    for stage, depth in enumerate((3, 4, 6, 3)):
        for block in range(depth):
            source = cfg.last
            cfg.conv(hidden[stage])
            cfg.conv(hidden[stage], 3, 2 if stage and block == 0 else 1, groups=groups)
            cfg.conv(256 * 2**stage, act="linear")
            cfg.shortcut(source, cfg.activation)


def resnet10(cfg: Cfg) -> None:
    cfg.conv(64, 7, 2)
    cfg.maxpool()
    for stage in range(4):
        source = cfg.last
        cfg.conv(64 * 2**stage, 3, 2 if stage else 1)
        cfg.conv(64 * 2**stage, 3, act="linear")
        cfg.shortcut(source, cfg.activation)


def darknet_reference(cfg: Cfg) -> None:
    for stage in range(7):
        cfg.conv(16 * 2**stage, 3)
        if stage < 6:
            cfg.maxpool()


def mobilenet_v2(cfg: Cfg) -> None:
    cfg.conv(32, 3, 2)
    width = 32
    for expand, out, count, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 1),  # the published BFLOPs fit with this stride one stage later than usual
        (6, 96, 3, 2),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for block in range(count):
            inverted_residual(cfg, width, expand * width, out, stride=stride if block == 0 else 1)
            width = out
    cfg.conv(1280)


def inverted_residual(cfg: Cfg, width: int, inner: int, out: int, *, stride: int = 1) -> None:
    source = cfg.last
    cfg.conv(inner)
    cfg.depthwise(inner, stride)
    cfg.conv(out, act="linear")
    if stride == 1 and width == out:
        cfg.shortcut(source)


def csmobilenet_v2(cfg: Cfg) -> None:
    """docs/networks.md, CSPMobileNet-v2."""
    start = cfg.conv(32, 3, 2)
    bypass = cfg.conv(16, 3, groups=16 // cfg.divide)
    cfg.route(start)
    cfg.conv(32)
    cfg.depthwise(32)
    block = cfg.conv(16, act="linear")
    cfg.route(block, bypass)
    width = 48
    cfg.conv(width)
    for inner, repeats, end, out in (
        (24, ((72, 1),), None, 72),
        (32, ((96, 2),), (64, 3), 192),
        (96, ((288, 2),), None, 288),
        (160, ((480, 2),), (320, 0), 640),
    ):
        start = cfg.last
        bypass = cfg.depthwise(width, 2)
        cfg.route(start)
        cfg.depthwise(width, 2, filters=2 * width)
        cfg.conv(inner, act="linear")
        residuals(cfg, inner, *repeats[0])
        if end is not None:
            wide = 6 * inner if inner == 32 else 960
            before = 3 * inner
            cfg.conv(before)
            cfg.depthwise(before, filters=wide)
            cfg.conv(end[0], act="linear")
            residuals(cfg, end[0], 3 * end[0], end[1])
        block = cfg.last
        cfg.route(block, bypass)
        width = out
        cfg.conv(width)


def residuals(cfg: Cfg, width: int, inner: int, count: int) -> None:
    for _ in range(count):
        source = cfg.last
        cfg.conv(inner)
        cfg.depthwise(inner, filters=2 * inner)
        cfg.conv(width, act="linear")
        cfg.shortcut(source)


def spp(cfg: Cfg) -> int:
    source = cfg.last
    pools = []
    for kernel in (5, 9, 13):
        if cfg.last != source:
            cfg.route(source)
        pools.append(cfg.maxpool(kernel, 1))
    return cfg.route(pools[2], pools[1], pools[0], source)


def panet_spp(cfg: Cfg, taps: Taps, anchors: str, *, scales: Sequence[float] = (1, 1, 1), **options: object) -> None:
    """docs/networks.md, PANet with SPP."""

    def stack(*widths: int) -> int:
        for width in widths:
            cfg.conv(width, 3 if width == max(widths) else 1)
        return cfg.last

    cfg.activation = "leaky"
    stack(512, 1024, 512)
    spp(cfg)
    p5 = stack(512, 1024, 512)
    laterals = []
    for tap, width in ((taps[1], 256), (taps[0], 128)):
        cfg.conv(width)
        up = cfg.upsample()
        cfg.route(tap)
        cfg.route(cfg.conv(width), up)
        laterals.append(stack(width, 2 * width, width, 2 * width, width))
    skips, end = (None, laterals[0], p5), laterals[1]
    for level, mask in enumerate(("0,1,2", "3,4,5", "6,7,8")):
        width = 128 * 2**level
        if level:
            cfg.route(end)
            down = cfg.conv(width, 3, 2)
            cfg.route(down, skips[level])
            end = stack(width, 2 * width, width, 2 * width, width)
        cfg.conv(2 * width, 3)
        cfg.yolo(mask, anchors, scale_x_y=scales[level], **options)


def yolov3_head(cfg: Cfg, taps: Taps, *, with_spp: bool = False) -> None:
    end = 0
    for level, (mask, width) in enumerate((("6,7,8", 512), ("3,4,5", 256), ("0,1,2", 128))):
        if level:
            cfg.route(end)
            cfg.conv(width)
            cfg.route(cfg.upsample(), taps[2 - level])
        cfg.conv(width)
        cfg.conv(2 * width, 3)
        cfg.conv(width)
        if with_spp and level == 0:
            spp(cfg)
            cfg.conv(width)
        cfg.conv(2 * width, 3)
        end = cfg.conv(width)
        cfg.conv(2 * width, 3)
        cfg.yolo(mask, ANCHORS_A)


def yolov4_tiny(cfg: Cfg) -> None:
    """docs/networks.md, YOLOv4-tiny."""
    cfg.conv(32, 3, 2)
    cfg.conv(64, 3, 2)
    for width in (64, 128, 256):
        x = cfg.conv(width, 3)
        cfg.route(x, groups=2, group_id=1)
        a = cfg.conv(width // 2, 3)
        b = cfg.conv(width // 2, 3)
        cfg.route(b, a)
        y = cfg.conv(width)
        cfg.route(x, y)
        cfg.maxpool()
    cfg.conv(512, 3)
    t = cfg.conv(256)
    cfg.conv(512, 3)
    options = {"scale_x_y": 1.05, "iou_loss": "ciou", "iou_normalizer": 0.07, "nms_kind": "greedynms", "beta_nms": 0.6}
    cfg.yolo("3,4,5", ANCHORS_C, **options)
    cfg.route(t)
    cfg.conv(128)
    cfg.route(cfg.upsample(), y)
    cfg.conv(256, 3)
    cfg.yolo("1,2,3", ANCHORS_C, **options)


def yolov3_tiny_stem(cfg: Cfg) -> int:
    """The layers before the coarsest pool; returns the one at stride 16."""
    for width in (16, 32, 64, 128):
        cfg.conv(width, 3)
        cfg.maxpool()
    tap = cfg.conv(256, 3)
    cfg.maxpool()
    cfg.conv(512, 3)
    cfg.maxpool(2, 1)
    return tap


def yolov3_tiny(cfg: Cfg, *, fine_mask: str = "1,2,3") -> None:
    tap = yolov3_tiny_stem(cfg)
    cfg.conv(1024, 3)
    t = cfg.conv(256)
    cfg.conv(512, 3)
    cfg.yolo("3,4,5", ANCHORS_C)
    cfg.route(t)
    cfg.conv(128)
    cfg.route(cfg.upsample(), tap)
    cfg.conv(256, 3)
    cfg.yolo(fine_mask, ANCHORS_C)


def yolov3_tiny_prn(cfg: Cfg) -> None:
    """docs/networks.md, PRN."""
    tap = yolov3_tiny_stem(cfg)
    before_pool = cfg.last - 1
    cfg.conv(512, 3)
    cfg.shortcut(before_pool, "leaky")
    reduced = cfg.conv(256)
    wide = cfg.conv(256, 3)
    cfg.shortcut(reduced, "leaky")
    cfg.yolo("3,4,5", ANCHORS_C)
    cfg.route(wide)
    cfg.conv(128)
    up = cfg.upsample()
    cfg.shortcut(tap, "leaky")
    cfg.conv(128, 3)
    cfg.shortcut(up, "leaky")
    cfg.shortcut(tap, "leaky")
    cfg.yolo("1,2,3", ANCHORS_C)


def yolov2(cfg: Cfg) -> None:
    """Darknet-19 with its finer map folded into the coarser one by [reorg]."""
    for stage, (width, depth) in enumerate(((32, 1), (64, 1), (128, 3), (256, 3), (512, 5), (1024, 5))):
        if stage:
            cfg.maxpool()
        for index in range(depth):
            cfg.conv(width if index % 2 == 0 else width // 2, 1 if index % 2 else 3)
        if stage == 4:
            tap = cfg.last
    cfg.conv(1024, 3)
    coarse = cfg.conv(1024, 3)
    cfg.route(tap)
    cfg.conv(64)
    folded = cfg.add("reorg", stride=2)
    cfg.route(folded, coarse)
    cfg.conv(1024, 3)
    cfg.region(ANCHORS_V2)


def yolov2_tiny(cfg: Cfg) -> None:
    yolov3_tiny_stem(cfg)
    cfg.conv(1024, 3)
    cfg.conv(512, 3)
    cfg.region(ANCHORS_V2, jitter=0.2, rescore=0)


@dataclass(frozen=True)
class Network:
    """A published network and its check totals (docs/networks.md, Check totals).

    Args:
        write: adds its layers to a Cfg.
        layers, floats: of the cfg and its weights file; `bflops` at `size`.
        yaml: the model file in cfg/ with the same network, if there is one.
    """

    write: Callable[[Cfg], None]
    layers: int
    floats: int
    bflops: float
    size: int
    activation: str = "leaky"
    yaml: str | None = None

    def cfg(self, *, size: int | None = None, divide: int = 1) -> Cfg:
        cfg = Cfg(size or self.size, divide, self.activation)
        self.write(cfg)
        return cfg


def _classifier(write: Callable[[Cfg], object], *, before_pool: bool = False) -> Callable[[Cfg], None]:
    def whole(cfg: Cfg) -> None:
        write(cfg)
        cfg.classify(before_pool=before_pool)

    return whole


def _panet(backbone: Callable[[Cfg], Taps], anchors: str = ANCHORS_A, **options: object) -> Callable[[Cfg], None]:
    def whole(cfg: Cfg) -> None:
        panet_spp(cfg, backbone(cfg), anchors, **options)

    return whole


def _yolov3(*, with_spp: bool) -> Callable[[Cfg], None]:
    def whole(cfg: Cfg) -> None:
        yolov3_head(cfg, darknet53(cfg), with_spp=with_spp)

    return whole


_YOLOV4 = {
    "scales": (1.2, 1.1, 1.05),
    "iou_loss": "ciou",
    "iou_thresh": 0.213,
    "nms_kind": "greedynms",
    "beta_nms": 0.6,
}

NETWORKS = {
    "csresnext50-panet-spp": Network(_panet(csresnext50), 138, 57030845, 47.098, 416, yaml="cspresnext50-panet-spp"),
    "csresnet50-panet-spp": Network(_panet(csresnet50), 138, 58399933, 49.313, 416, yaml="cspresnet50-panet-spp"),
    "csdarknet53-panet-spp": Network(_panet(csdarknet53), 162, 64429405, 60.137, 416, yaml="cspdarknet53-panet-spp"),
    "yolov4": Network(_panet(csdarknet53, ANCHORS_B, **_YOLOV4), 162, 64429405, 128.459, 608, "mish", yaml="yolov4"),
    "yolov4-tiny": Network(yolov4_tiny, 38, 6062814, 6.910, 416, yaml="yolov4-tiny"),
    "yolov3": Network(_yolov3(with_spp=False), 107, 62001757, 65.879, 416, yaml="yolov3"),
    "yolov3-spp": Network(_yolov3(with_spp=True), 114, 63052381, 141.531, 608, yaml="yolov3-spp"),
    "yolov3-tiny": Network(yolov3_tiny, 24, 8858734, 5.571, 416, yaml="yolov3-tiny"),
    # Floats by the sizes of the authors' files; BFLOPs are ours, their page has 62.94 and 5.41.
    "yolov2": Network(yolov2, 32, 50983561, 62.961, 608),
    "yolov2-tiny": Network(yolov2_tiny, 16, 11237145, 5.412, 416),
    "yolov3-tiny-prn": Network(yolov3_tiny_prn, 28, 4939758, 3.467, 416, yaml="yolov3-tiny-prn"),
    "csresnext50-elastic-panet-spp": Network(
        _panet(csresnext50_elastic), 242, 53389757, 61.420, 512, yaml="cspresnext50-elastic-panet-spp"
    ),
    "csresnet50-elastic-panet-spp": Network(
        _panet(csresnet50_elastic), 242, 66652093, 76.283, 512, yaml="cspresnet50-elastic-panet-spp"
    ),
    "csresnext50": Network(_classifier(csresnext50), 84, 20614824, 7.933, 256, yaml="cspresnext50"),
    "csresnet50": Network(_classifier(csresnet50), 84, 21648040, 8.972, 256, yaml="cspresnet50"),
    "csdarknet53": Network(_classifier(csdarknet53), 108, 27677512, 13.071, 256, yaml="cspdarknet53"),
    "csresnext50-omega": Network(_classifier(csresnext50), 84, 20614824, 7.933, 256, "mish", yaml="cspresnext50-omega"),
    "csdarknet53-omega": Network(
        _classifier(csdarknet53), 108, 27677512, 13.071, 256, "mish", yaml="cspdarknet53-omega"
    ),
    "csresnext50-elastic": Network(
        _classifier(csresnext50_elastic), 188, 16973736, 5.452, 256, yaml="cspresnext50-elastic"
    ),
    "csresnet50-elastic": Network(
        _classifier(csresnet50_elastic), 188, 29900200, 9.367, 256, yaml="cspresnet50-elastic"
    ),
    "csdarknet53-elastic": Network(
        _classifier(lambda c: csdarknet53(c, elastic=True)), 269, 19117000, 7.745, 256, yaml="cspdarknet53-elastic"
    ),
    "darknet53": Network(_classifier(darknet53), 78, 41645640, 18.576, 256, yaml="darknet53"),
    "darknet": Network(_classifier(darknet_reference), 16, 7323480, 0.967, 256, yaml="darknet-ref"),
    "resnet10": Network(_classifier(resnet10), 17, 5248936, 2.274, 256, yaml="resnet10"),
    "resnet50": Network(
        _classifier(lambda c: resnet(c, groups=1, hidden=(64, 128, 256, 512)), before_pool=True),
        69,
        22825896,
        10.007,
        256,
    ),
    "resnet50-leaky": Network(
        _classifier(lambda c: resnet(c, groups=1, hidden=(64, 128, 256, 512))),
        69,
        22825896,
        9.749,
        256,
        yaml="resnet50",
    ),
    "resnext50": Network(
        _classifier(lambda c: resnet(c, groups=32, hidden=(128, 256, 512, 1024))),
        69,
        22312872,
        10.119,
        256,
        yaml="resnext50",
    ),
    "mobilenet-v2": Network(_classifier(mobilenet_v2), 66, 3540136, 0.859, 224, "relu", yaml="mobilenet-v2"),
    "csmobilenet-v2": Network(_classifier(csmobilenet_v2), 81, 2568448, 0.764, 224, "relu", yaml="cspmobilenet-v2"),
}
