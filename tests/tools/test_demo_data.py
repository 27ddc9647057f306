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
from demo_data.scene import paint_background
from demo_data.things import THINGS, paint_thing
from pycocotools.coco import COCO

HW = (129, 161)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('demo') / 'data'
    assert write_demo_data(root, num_train=12, num_val=3, hw=HW, seed=3)
    return root


@pytest.fixture(scope='module')
def files(data):
    kinds = ('person_keypoints', 'instances')
    return [COCO(str(data / f'annotations/{kind}_train.json')) for kind in kinds]


def contents(root, pattern='*'):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob(pattern) if p.is_file()}


def drawn(seed=0):
    canvas, rng = Canvas(HW), np.random.default_rng(seed)
    paint_background(canvas, rng, 60)
    return canvas, rng


def test_same_arguments_same_bytes_and_fewer_images_are_a_prefix(data, tmp_path):
    write_demo_data(tmp_path / 'again', num_train=12, num_val=3, hw=HW, seed=3)
    assert contents(tmp_path / 'again') == contents(data)
    for seed, same in ((3, True), (4, False)):
        few = tmp_path / f'few{seed}'
        write_demo_data(few, num_train=5, num_val=1, hw=HW, seed=seed)
        assert (contents(few, '*.png').items() <= contents(data).items()) == same
    pictures = contents(data, 'img_dir/*/*.png').values()
    assert len(pictures) == len(set(pictures)) == 15


def test_both_coco_files_say_the_same_about_a_person(data, files):
    people, things = files
    assert things.getAnnIds(catIds=[1]) == people.getAnnIds() != []
    assert all(things.anns[key].items() <= person.items() for key, person in people.anns.items())
    assert people.cats[1]['keypoints'] == list(JOINTS)
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
            assert tuple(annotation['bbox']) == cv2.boundingRect(mask)
            assert annotation['area'] == mask.sum() >= dataset.MIN_AREA
        for name, mask in union.items():
            np.testing.assert_array_equal(mask, index == classes.index(name))


def test_there_is_a_crop_of_every_thing_in_the_folder_of_its_class(data, files):
    things = files[1]
    pictures = {path.stem: path for path in (data / 'crops/train').rglob('*.png')}
    assert {int(stem) for stem in pictures} == set(things.anns)
    for stem, path in pictures.items():
        annotation = things.anns[int(stem)]
        assert path.parent.name == things.cats[annotation['category_id']]['name']
        image = things.imgs[annotation['image_id']]
        whole = cv2.imread(str(data / 'img_dir/train' / image['file_name']))
        x, y, w, h = (round(value) for value in annotation['bbox'])
        margin, crop = round(0.1 * max(w, h)), cv2.imread(str(path))
        left, top = max(0, x - margin), max(0, y - margin)
        assert crop.shape[0] >= h and crop.shape[1] >= w
        window = whole[top : y + h + margin, left : x + w + margin]
        np.testing.assert_array_equal(crop, window)


def test_visible_joints_are_on_the_mask_and_all_in_the_image_are_labelled(files):
    flags = []
    for annotation in files[0].anns.values():
        mask = files[0].annToMask(annotation)
        joints = np.array(annotation['keypoints']).reshape(17, 3)
        assert annotation['num_keypoints'] == np.count_nonzero(joints[:, 2])
        assert not joints[joints[:, 2] == 0].any()
        for x, y, visibility in joints[joints[:, 2] > 0]:
            assert mask[round(y), round(x)] or visibility == 1
        flags.append(joints[:, 2])
    shares = [np.mean(np.equal(flags, flag)) for flag in (0, 1, 2)]
    assert shares[0] > 0 and shares[1] > 0.05 and shares[2] > 0.5


@pytest.mark.parametrize('seed', range(5))
def test_what_covers_a_joint_hides_it(seed):
    canvas, rng = drawn(seed)
    paint_person(canvas, rng, sample_pose(rng)[1], (80, 120), 100)
    (person,) = canvas.bodies
    before = canvas.keypoints(person)
    canvas.owners.append('box')
    canvas.fill([(-9, 70), (200, 70), (200, 200), (-9, 200)], 0, paint((90, 90, 90)))
    after, covered = canvas.keypoints(person), before[:, 1] > 71
    assert 2 in before[covered, 2] and 2 in before[~covered, 2]
    np.testing.assert_array_equal(after[:, :2], before[:, :2])
    assert (after[covered, 2] == 1).all()
    np.testing.assert_array_equal(after[before[:, 1] < 67], before[before[:, 1] < 67])


@pytest.mark.parametrize('category', THINGS)
def test_a_thing_changes_the_picture_inside_its_mask_only(category):
    canvas, rng = drawn()
    before = canvas.picture(np.random.default_rng(0)).astype(int)
    paint_thing(canvas, rng, category, (80, 110), 60)
    changed = (canvas.picture(np.random.default_rng(0)) != before).any(-1)
    mask = (canvas.owner_map() == len(canvas.owners) - 1).astype(np.uint8)
    assert mask.sum() > 50 and changed[mask > 0].mean() > 0.95
    assert not changed[cv2.dilate(mask, np.ones((3, 3))) == 0].any()


def test_leftovers_are_ignored_rather_than_annotated():
    canvas, rng = drawn()
    paint_thing(canvas, rng, 'ball', (20, 40), 20)
    paint_thing(canvas, rng, 'dog', (90, 90), 4)
    (ball,), labels = dataset.annotate(canvas, image=7)
    assert ball['area'] == (labels == dataset.CLASSES.index('ball')).sum()
    assert 0 < (labels == 255).sum() < dataset.MIN_AREA


def test_left_is_on_the_right_of_the_image_exactly_for_those_who_face_the_viewer():
    for seed in range(60):
        points = sample_pose(np.random.default_rng(seed))[1]
        facing = points['nose'][2] - points['head'][2]
        if abs(facing) > 0.06:  # neither in profile nor fallen
            assert (points['left_shoulder'][0] > points['right_shoulder'][0]) == (facing > 0)


def test_existing_data_are_kept(data, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in data.rglob('*')}
    assert not write_demo_data(data, num_train=12, num_val=3, hw=HW, seed=3)
    (tmp_path / 'thesis.txt').write_text('years of work')
    for folder, message in ((data, 'seed=3 instead of 4'), (tmp_path, 'seed=None instead of 4')):
        with pytest.raises(FileExistsError, match=f'{message}.*delete it or choose another folder'):
            write_demo_data(folder, num_train=12, num_val=3, hw=HW, seed=4)
    assert before == {p: p.stat().st_mtime_ns for p in data.rglob('*')}
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.txt']


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, 'annotate', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_demo_data(tmp_path / 'data', 2, 1, HW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('count', 'message'), [('0', 'num_train must be between 1 and 999999, got 0'), ('2', 'written')]
)
def test_command_line(tmp_path, count, message):
    tool = str(Path(__file__).resolve().parents[2] / 'tools' / 'demo_data')
    command = [sys.executable, tool, str(tmp_path / 'data'), '--num-train', count, '--num-val', '1']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert message in done.stdout + done.stderr
    assert done.returncode == (count == '0')
