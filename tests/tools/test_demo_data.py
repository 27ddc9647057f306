"""The demo data: same bytes for the same arguments, and three formats that agree."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from demo_data import dataset, write_demo_data
from demo_data.canvas import Canvas, paint
from demo_data.people import paint_person
from demo_data.poses import JOINTS, sample_pose
from demo_data.scene import draw_scene, paint_background
from demo_data.things import THINGS, paint_thing
from pycocotools.coco import COCO

HW = (128, 160)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A data set of 12 + 3 images."""
    root = tmp_path_factory.mktemp('demo') / 'data'
    assert write_demo_data(root, num_train=12, num_val=3, hw=HW, seed=3)
    return root


@pytest.fixture(scope='module')
def files(data):
    kinds = ('person_keypoints', 'instances')
    return [COCO(str(data / f'annotations/{kind}_train.json')) for kind in kinds]


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def joints_of(annotation):
    return np.array(annotation['keypoints']).reshape(17, 3)


def drawn(seed=0, hw=HW):
    """A canvas with a background and the generator to go on with."""
    canvas, rng = Canvas(hw), np.random.default_rng(seed)
    paint_background(canvas, rng, hw[0] // 2)
    return canvas, rng


def test_same_arguments_same_bytes_and_fewer_images_are_a_prefix(data, files, tmp_path):
    write_demo_data(tmp_path / 'again', num_train=12, num_val=3, hw=HW, seed=3)
    assert contents(tmp_path / 'again') == contents(data)
    write_demo_data(tmp_path / 'few', num_train=5, num_val=1, hw=HW, seed=3)
    pictures = {path: c for path, c in contents(tmp_path / 'few').items() if path.suffix == '.png'}
    assert len(pictures) == 12 and pictures.items() <= contents(data).items()
    few = json.loads((tmp_path / 'few/annotations/instances_train.json').read_text())
    assert few['annotations'] == list(files[1].anns.values())[: len(few['annotations'])]


def test_seed_and_split_change_the_picture():
    rngs = [np.random.default_rng(key) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0))]
    pictures = [draw_scene(rng, HW).picture(rng) for rng in rngs]
    assert not any(np.array_equal(pictures[0], other) for other in pictures[1:])


def test_both_coco_files_say_the_same_about_a_person(data, files):
    people, things = files
    assert things.getAnnIds(catIds=[1]) == people.getAnnIds() != []
    for key, person in people.anns.items():
        assert things.anns[key].items() <= person.items()
    (category,) = people.cats.values()
    assert category['keypoints'] == list(JOINTS) and len(category['skeleton']) == 19
    val = COCO(str(data / 'annotations/instances_val.json'))
    assert not val.anns.keys() & things.anns.keys() and not val.imgs.keys() & things.imgs.keys()


def test_masks_equal_the_index_mask_and_boxes_bound_them(data, files):
    classes = json.loads((data / 'meta.json').read_text())['classes']
    things = files[1]
    for image in things.imgs.values():
        index = cv2.imread(str(data / 'ann_dir/train' / image['file_name']), cv2.IMREAD_UNCHANGED)
        assert index.shape == HW and set(np.unique(index)) <= {*range(len(classes)), 255}
        union = {category['name']: np.zeros(HW, int) for category in things.cats.values()}
        for annotation in things.imgToAnns[image['id']]:
            mask = things.annToMask(annotation)
            union[things.cats[annotation['category_id']]['name']] += mask
            x, y, width, height = cv2.boundingRect(mask)
            assert annotation['bbox'] == [x, y, width, height]
            assert annotation['area'] == mask.sum() >= dataset.MIN_AREA
        for name, mask in union.items():
            np.testing.assert_array_equal(mask, index == classes.index(name))


def test_joints_are_visible_only_on_the_mask_and_labelled_wherever_they_are_in_the_image(files):
    people = files[0]
    for annotation in people.anns.values():
        joints, mask = joints_of(annotation), people.annToMask(annotation)
        assert annotation['num_keypoints'] == np.count_nonzero(joints[:, 2])
        assert not joints[joints[:, 2] == 0].any()
        for x, y, visibility in joints[joints[:, 2] > 0]:
            assert mask[round(y), round(x)] or visibility == 1
    flags = np.stack([joints_of(a) for a in people.anns.values()])[..., 2]
    shares = [np.mean(flags == flag) for flag in (0, 1, 2)]
    assert shares[0] > 0 and shares[1] > 0.05 and shares[2] > 0.5


@pytest.mark.parametrize('seed', range(5))
def test_what_covers_a_joint_hides_it(seed):
    canvas, rng = drawn(seed)
    paint_person(canvas, rng, sample_pose(rng)[1], (80, 120), 100)
    (person,) = canvas.bodies
    before = canvas.keypoints(person)
    canvas.owners.append('box')
    canvas.fill([(-9, 70), (200, 70), (200, 200), (-9, 200)], 0, paint((90, 90, 90)))
    after = canvas.keypoints(person)
    covered = canvas.owner_map()[tuple(before[:, 1::-1].round().astype(int).T)] != person
    assert 2 in before[covered, 2] and 2 in before[~covered, 2]
    np.testing.assert_array_equal(after[covered, 2].clip(max=1), after[covered, 2])
    np.testing.assert_array_equal(after[before[:, 1] < 65], before[before[:, 1] < 65])


@pytest.mark.parametrize('category', THINGS)
def test_a_thing_changes_the_picture_inside_its_mask_only(category):
    pictures = []
    for painted in (False, True):
        canvas, rng = drawn()
        if painted:
            paint_thing(canvas, rng, category, (80, 110), 60)
        pictures.append(canvas.picture(np.random.default_rng(0)).astype(int))
    changed = np.abs(pictures[1] - pictures[0]).max(-1) > 0
    mask = (canvas.owner_map() == len(canvas.owners) - 1).astype(np.uint8)
    assert mask.sum() > 50 and changed[mask > 0].mean() > 0.95
    assert not changed[cv2.dilate(mask, np.ones((3, 3))) == 0].any()


def test_leftovers_are_ignored_rather_than_annotated():
    canvas, rng = drawn()
    paint_thing(canvas, rng, 'ball', (20, 40), 20)
    paint_thing(canvas, rng, 'dog', (90, 90), 4)
    (ball,), labels = dataset.annotate(canvas, image=7)
    counts = dict(zip(*np.unique(labels, return_counts=True)))
    assert ball['id'] == 700 and ball['area'] == counts[dataset.CLASSES.index('ball')]
    assert 0 < counts[255] < dataset.MIN_AREA


def test_left_is_on_the_right_of_the_image_exactly_for_those_who_face_the_viewer():
    for seed in range(60):
        points = sample_pose(np.random.default_rng(seed))[1]
        facing = points['nose'][2] - points['head'][2]
        if abs(facing) > 0.06:  # neither in profile nor fallen
            assert (points['left_shoulder'][0] > points['right_shoulder'][0]) == (facing > 0)
        for a, b, length in (('hip', 'knee', 0.245), ('knee', 'ankle', 0.23)):
            bone = points[f'left_{a}'] - points[f'left_{b}']
            assert np.linalg.norm(bone) == pytest.approx(length)


@pytest.mark.parametrize('hw', [(64, 64), (65, 301), (300, 67)])
def test_odd_sizes(hw):
    rng = np.random.default_rng(0)
    canvas = draw_scene(rng, hw)
    assert canvas.picture(rng).shape == (*hw, 3) and canvas.owner_map().shape == hw


def test_the_same_data_are_not_made_twice_and_others_are_refused(data, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in data.rglob('*')}
    assert not write_demo_data(data, num_train=12, num_val=3, hw=HW, seed=3)
    with pytest.raises(FileExistsError, match=r'seed=3 instead of 4; delete it or choose another'):
        write_demo_data(data, num_train=12, num_val=3, hw=HW, seed=4)
    assert before == {p: p.stat().st_mtime_ns for p in data.rglob('*')}
    (tmp_path / 'thesis.txt').write_text('years of work')
    with pytest.raises(FileExistsError, match='must be new, empty or hold the same data'):
        write_demo_data(tmp_path, 1, 1, HW)
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.txt']


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(dataset, 'annotate', interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_demo_data(tmp_path / 'data', 2, 1, HW)
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path):
    def run(*extra):
        tool = Path(__file__).resolve().parents[2] / 'tools' / 'demo_data'
        command = [sys.executable, str(tool), str(tmp_path / 'data'), *extra]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    small = ('--num-val', '1', '--size', '64', '80')
    for count in ('0', '-2'):
        bad = run('--num-train', count, *small)
        assert bad.returncode == 1
        assert f'num_train must be between 1 and 999999, got {count}' in bad.stderr
    for message in ('written to', 'already in'):
        done = run('--num-train', '2', *small)
        assert done.returncode == 0 and message in done.stdout
