"""The demo data: same bytes for the same arguments, and three formats that agree."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from demo_data import write_demo_data
from demo_data.formats import MIN_AREA, annotations, index_mask
from demo_data.poses import JOINTS, sample_pose
from demo_data.scene import Instance, Scene, draw_scene
from pycocotools.coco import COCO

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
HW = (128, 160)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A data set of 12 + 3 images."""
    root = tmp_path_factory.mktemp('demo') / 'data'
    assert write_demo_data(root, num_train=12, num_val=3, hw=HW, seed=3)
    return root


@pytest.fixture(scope='module')
def people(data):
    return COCO(str(data / 'annotations/person_keypoints_train.json'))


@pytest.fixture(scope='module')
def instances(data):
    return COCO(str(data / 'annotations/instances_train.json'))


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def joints_of(annotation):
    return np.array(annotation['keypoints']).reshape(17, 3)


def test_same_arguments_same_bytes(data, tmp_path):
    write_demo_data(tmp_path / 'again', num_train=12, num_val=3, hw=HW, seed=3)
    assert contents(tmp_path / 'again') == contents(data)


def test_fewer_images_are_a_prefix(data, people, tmp_path):
    write_demo_data(tmp_path / 'few', num_train=5, num_val=1, hw=HW, seed=3)
    for path, content in contents(tmp_path / 'few').items():
        if path.suffix == '.png':
            assert content == (data / path).read_bytes()
    few = COCO(str(tmp_path / 'few/annotations/person_keypoints_train.json'))
    assert list(few.imgs.values()) == list(people.imgs.values())[:5]
    assert list(few.anns.values()) == list(people.anns.values())[: len(few.anns)]


def test_seed_and_split_change_the_picture():
    pictures = [
        draw_scene(np.random.default_rng(key), HW).picture
        for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0))
    ]
    assert not any(np.array_equal(pictures[0], other) for other in pictures[1:])


def test_ids_are_sorted_and_unique_over_all_files(data):
    found = {}
    for kind in ('instances', 'person_keypoints'):
        for split in ('train', 'val'):
            file = json.loads((data / f'annotations/{kind}_{split}.json').read_text())
            found[kind, split] = [a['id'] for a in file['annotations']]
            images = [i['id'] for i in file['images']]
            assert images == sorted(set(images))
            assert found[kind, split] == sorted(set(found[kind, split]))
            assert {a['image_id'] for a in file['annotations']} <= set(images)
    assert not set(found['instances', 'train']) & set(found['instances', 'val'])
    for split in ('train', 'val'):
        assert set(found['person_keypoints', split]) <= set(found['instances', split])


def test_keypoints_and_instances_tell_the_same_about_a_person(people, instances):
    persons = instances.getAnnIds(catIds=instances.getCatIds(catNms=['person']))
    assert persons == people.getAnnIds()
    for key in people.getAnnIds():
        for field in ('image_id', 'bbox', 'area', 'segmentation', 'iscrowd'):
            assert people.anns[key][field] == instances.anns[key][field]


def test_masks_equal_the_index_mask(data, instances):
    classes = json.loads((data / 'meta.json').read_text())['segmentation_classes']
    for image in instances.loadImgs(instances.getImgIds()):
        index = cv2.imread(str(data / 'ann_dir/train' / image['file_name']), cv2.IMREAD_UNCHANGED)
        assert index.shape == HW and index.dtype == np.uint8
        assert set(np.unique(index)) <= {*range(len(classes)), 255}
        for category in instances.loadCats(instances.getCatIds()):
            union = np.zeros(HW, int)
            for key in instances.getAnnIds(image['id'], category['id']):
                union += instances.annToMask(instances.anns[key])
            np.testing.assert_array_equal(union, index == classes.index(category['name']))


def test_box_and_area_belong_to_the_mask(instances):
    for annotation in instances.anns.values():
        mask = instances.annToMask(annotation)
        rows, cols = np.nonzero(mask)
        assert annotation['area'] == len(rows) >= MIN_AREA
        x, y, width, height = annotation['bbox']
        assert (x, y) == (cols.min(), rows.min())
        assert (x + width, y + height) == (cols.max() + 1, rows.max() + 1)


def test_joints_lie_in_the_image_and_on_the_mask(people):
    seen = 0
    for annotation in people.anns.values():
        joints, mask = joints_of(annotation), people.annToMask(annotation)
        assert annotation['num_keypoints'] == np.count_nonzero(joints[:, 2])
        assert not joints[joints[:, 2] == 0].any()
        labelled = joints[joints[:, 2] > 0]
        assert (labelled[:, :2] >= 0).all() and (labelled[:, :2] <= np.array(HW[::-1]) - 1).all()
        for x, y, _ in joints[joints[:, 2] == 2]:
            assert mask[round(y), round(x)]
            seen += 1
    assert seen > 100


def test_hidden_joints_are_labelled_but_not_visible(people):
    joints = np.stack([joints_of(a) for a in people.anns.values()])
    shares = [np.mean(joints[..., 2] == flag) for flag in (0, 1, 2)]
    assert shares[0] > 0 and shares[1] > 0.05 and shares[2] > 0.5


def test_categories_are_those_of_coco(people, instances):
    (person,) = people.loadCats(people.getCatIds())
    assert person['keypoints'] == list(JOINTS) and len(person['skeleton']) == 19
    names = [c['name'] for c in instances.loadCats(instances.getCatIds())]
    assert names == ['person', 'box', 'ball', 'cone', 'tree', 'pole', 'dog']


def test_left_is_on_the_right_of_the_image_exactly_for_those_who_face_the_viewer():
    for seed in range(60):
        pose = sample_pose(np.random.default_rng(seed))
        sideways = pose.points['left_shoulder'] - pose.points['right_shoulder']
        facing = pose.torso_axes[2, 2]
        if abs(facing) > 0.5:  # neither profile nor fallen
            assert (sideways[0] > 0) == (facing > 0)


def test_limbs_keep_their_length():
    for seed in range(20):
        points = sample_pose(np.random.default_rng(seed)).points
        for a, b, length in (
            ('hip', 'knee', 0.245),
            ('knee', 'ankle', 0.23),
            ('elbow', 'wrist', 0.145),
        ):
            for side in ('left', 'right'):
                bone = np.linalg.norm(points[f'{side}_{a}'] - points[f'{side}_{b}'])
                assert bone == pytest.approx(length)


def test_leftovers_are_ignored_rather_than_annotated():
    owner = np.full(HW, -1, np.int16)
    owner[:10, :10], owner[20:22, :3] = 0, 1
    things = [Instance('ball', None), Instance('dog', None)]
    scene = Scene(np.zeros((*HW, 3), np.uint8), owner, np.full(HW, 2, np.uint8), things)
    (ball,) = annotations(scene, image=7)
    assert (ball['id'], ball['area']) == (700, 100)
    values, counts = np.unique(index_mask(scene), return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist())) == {2: 128 * 160 - 106, 6: 100, 255: 6}


@pytest.mark.parametrize('hw', [(64, 64), (65, 301), (300, 67)])
def test_odd_sizes(hw):
    scene = draw_scene(np.random.default_rng(0), hw)
    assert scene.picture.shape == (*hw, 3) and scene.owner.shape == hw


def test_the_same_data_are_not_made_twice(data, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in data.rglob('*')}
    assert not write_demo_data(data, num_train=12, num_val=3, hw=HW, seed=3)
    assert before == {p: p.stat().st_mtime_ns for p in data.rglob('*')}


def test_other_arguments_are_refused(data):
    with pytest.raises(FileExistsError, match=r'seed: 3 there, 4 asked for.*--overwrite'):
        write_demo_data(data, num_train=12, num_val=3, hw=HW, seed=4)


def test_a_folder_of_the_user_is_refused(tmp_path):
    (tmp_path / 'thesis.txt').write_text('years of work')
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match='with other content; choose another folder'):
            write_demo_data(tmp_path, 1, 1, HW, overwrite=overwrite)
    assert (tmp_path / 'thesis.txt').read_text() == 'years of work'


def test_overwrite_replaces_only_what_the_generator_wrote(tmp_path):
    root = tmp_path / 'data'
    write_demo_data(root, 2, 1, HW)
    (root / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match=r'got 1 other files .*notes\.txt'):
        write_demo_data(root, 1, 1, HW, overwrite=True)
    (root / 'notes.txt').unlink()
    assert write_demo_data(root, 1, 1, HW, overwrite=True)
    assert len(list((root / 'img_dir/train').iterdir())) == 1
    assert [p.name for p in tmp_path.iterdir()] == ['data']


def test_missing_files_are_noticed(tmp_path):
    write_demo_data(tmp_path, 1, 1, HW)  # an empty folder may be filled
    next((tmp_path / 'img_dir/val').iterdir()).unlink()
    with pytest.raises(FileExistsError, match=r'1 files are missing .*img_dir/val'):
        write_demo_data(tmp_path, 1, 1, HW)


def test_an_interruption_leaves_nothing(tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_demo_data(tmp_path / 'data', 2, 1, HW, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'num_train': 0}, r'num_train must be between 1 and 999999, got num_train=0'),
        ({'num_val': -2}, r'num_val must be between 1 and 999999, got num_val=-2'),
        ({'hw': (63, 128)}, r'height must be between 64 and 2048 pixels, got height=63'),
        ({'hw': (128, 4096)}, r'width must be between 64 and 2048 pixels, got width=4096'),
        ({'hw': (128,)}, r'hw must be a height and a width, got hw=\(128,\)'),
        ({'seed': -1}, r'seed must be 0 or more, got seed=-1'),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_demo_data(tmp_path / 'data', **arguments)
    assert not (tmp_path / 'data').exists()


def test_command_line(tmp_path):
    def run(*extra):
        command = [sys.executable, str(TOOLS / 'demo_data'), str(tmp_path / 'data'), *extra]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    small = ('--num-train', '2', '--num-val', '1', '--size', '64', '80')
    first, second, bad = run(*small), run(*small), run('--num-train', '0')
    assert first.returncode == 0 and 'written to' in first.stdout and '3/3 images' in first.stderr
    assert second.returncode == 0 and 'already in' in second.stdout
    assert bad.returncode == 2 and 'got num_train=0' in bad.stderr
